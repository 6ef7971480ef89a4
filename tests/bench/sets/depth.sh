# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# What an image alone costs, and the same image under 63 overlays that have a
# cluster of their own, so that there is a table to look into.

mib=64
memory=3072
clocks=(insn)
contenders=(file deepfile block deepblock)
declare -A against=([file]=file [block]=block)
workloads=(randread-4k-1 randread-4k-32)

make_images() {
	head -c "${mib}M" /dev/urandom >"$1/raw"
	qemu-img convert -q -f raw -O qcow2 "$1/raw" "$1/qcow2"
	rm "$1/raw"
	qemu-img create -q -f qcow2 "$1/overlay" "${mib}M"
	qemu-io -f qcow2 -c 'write 0 64k' "$1/overlay" >/dev/null
	# the table says what lies below, the name only that something does
	qemu-img rebase -u -F qcow2 -b below "$1/overlay"
}

fill() {
	dd if="$images/$1" of="$2" bs=1M oflag=direct conv=notrunc status=none
}

job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
