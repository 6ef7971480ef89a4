# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# All of it has been written before: no cluster is without a place in the image,
# no block of a raw file and no page of a disk is missing.

mib=64
memory=3072
contenders=(loop buffered file nbd crypt linear block thin)
workloads=(randread-4k-1 randread-4k-32 randread-4k-128 randread-4k-32-x2
	randwrite-4k-1 randwrite-4k-32 randwrite-4k-128 randwrite-4k-32-x2
	randwrite-4k-1-fsync randrw-4k-32-reads70
	read-64k-8 read-512k-8 read-1024k-8 write-64k-8 write-512k-8 write-1024k-8)

# On the host, once: DIRECTORY/raw and DIRECTORY/qcow2.
make_images() {
	head -c "${mib}M" /dev/urandom >"$1/raw"
	qemu-img convert -q -f raw -O qcow2 "$1/raw" "$1/qcow2"
}

# In the guest: fill raw|qcow2 FILE-OR-DISK
fill() {
	dd if="$images/$1" of="$2" bs=1M oflag=direct conv=notrunc status=none
}

# What fio has to know of WORKLOAD besides its name.
job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
