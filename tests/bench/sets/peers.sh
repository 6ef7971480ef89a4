# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# The jobs that others have published figures of, but for the time they take. Two
# jobs of depth 8 are those of an earlier in-kernel qcow2; 128 in batches of 16
# those of ublk; twelve jobs those of the loop device and dm-loop.

mib=64
memory=3072
clocks=(wall)
contenders=(loop buffered file nbd linear block)
workloads=(
	read-{4k,64k,512k,1024k,2048k}-8-x2 write-{4k,64k,512k,1024k,2048k}-8-x2
	{randwrite,randread,randrw}-4k-128-batch rw-{64k,512k}-128-batch
	rw-4k-1-x12-psync rw-4k-16-x12)

make_images() {
	head -c "${mib}M" /dev/urandom >"$1/raw"
	qemu-img convert -q -f raw -O qcow2 "$1/raw" "$1/qcow2"
}

fill() {
	dd if="$images/$1" of="$2" bs=1M oflag=direct conv=notrunc status=none
}

job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
