# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# Clusters of 2 MiB: hardly any tables.
# All of it has been written before.

mib=64
memory=3072
contenders=(loop file nbd linear block)
workloads=(randread-4k-1 randread-4k-32 randwrite-4k-1 randwrite-4k-32
	read-512k-8 write-512k-8)

make_images() {
	head -c "${mib}M" /dev/urandom >"$1/raw"
	qemu-img convert -q -f raw -O qcow2 -o cluster_size=2M "$1/raw" "$1/qcow2"
}

fill() {
	dd if="$images/$1" of="$2" bs=1M oflag=direct conv=notrunc status=none
}

job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
