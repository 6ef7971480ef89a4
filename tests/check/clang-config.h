/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a kernel that is built with clang is configured to, where it matters to
 * those who include its headers: Debian's are configured for gcc.
 */
#undef CONFIG_CC_IS_GCC
#define CONFIG_CC_IS_CLANG 1
/* clang 14 does not take them the way the kernel writes them */
#undef CONFIG_CC_HAS_NAMED_AS
#undef CONFIG_USE_X86_SEG_SUPPORT
