/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only file that knows kernel versions: what older kernels lack. Kbuild
 * includes it into every source and defines the HAVE_ it asks for.
 */
#ifndef DM_QCOW2_COMPAT_H
#define DM_QCOW2_COMPAT_H

#endif /* DM_QCOW2_COMPAT_H */
