# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# Nothing has been written yet: an image without clusters, a raw file that is one
# hole, a disk without pages. Everything is made anew for each round, and within
# a round each kind of write has a region that nobody has touched. Writes are
# counted, not timed: time would turn the faster contender's region into an
# allocated one.

mib=1024
memory=4096
anew=yes
contenders=(loop buffered file nbd crypt linear block thin)
workloads=(randread-4k-1 randread-4k-32 read-512k-8
	randwrite-4k-1 randwrite-4k-16 randwrite-4k-32 write-4k-16 write-512k-8)

make_images() {
	truncate -s "${mib}M" "$1/raw"
	qemu-img create -q -f qcow2 "$1/qcow2" "${mib}M"
}

fill() {
	if [[ $1 == qcow2 ]]; then
		dd if="$images/qcow2" of="$2" bs=1M conv=notrunc,fsync status=none
	elif [[ ! -b $2 ]]; then
		truncate -s "${mib}M" "$2"
	fi
}

# 2048 random writes meet some 1600 of the 4096 clusters of 256 MiB.
job() {
	case $1 in
	*read*) printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms" ;;
	randwrite-4k-1) printf '%s\n' offset=0 size=256M number_ios=2048 ;;
	randwrite-4k-32) printf '%s\n' offset=256M size=256M number_ios=2048 ;;
	randwrite-4k-16) printf '%s\n' offset=512M size=256M number_ios=2048 ;;
	write-4k-16) printf '%s\n' offset=768M size=64M ;;
	*) printf '%s\n' offset=832M size=128M ;;
	esac
}
