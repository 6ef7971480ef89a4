# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What QEMU has to be helped with; sourced by suites.

# qemu_create ARG...: qemu-img create. For LUKS it measures how much processor time
# its hash takes, and gives up if that was none, as it is now and then where the
# kernel counts by ticks.
qemu_create() {
	local said n

	for ((n = 0; n < 10; n++)); do
		said=$(qemu-img create -q "$@" 2>&1) && return
		[[ $said == *"Unable to get accurate CPU usage"* ]] || break
	done
	echo "$said" >&2
	return 1
}
