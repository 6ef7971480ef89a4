# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# Every cluster is compressed, to about three quarters.

mib=64
memory=3072
clocks=(wall)
contenders=(file nbd)
declare -A against=([file]=nbd [nbd]=nbd)
workloads=(read-4k-32 randread-4k-32)

make_images() {
	head -c $((mib * 3 / 4))M /dev/urandom | base64 -w 0 >"$1/raw"
	qemu-img convert -q -c -f raw -O qcow2 "$1/raw" "$1/qcow2"
	rm "$1/raw"
}

fill() {
	dd if="$images/$1" of="$2" bs=1M conv=notrunc,fsync status=none
}

job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
