# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# An empty overlay over a full base, both with clusters of 64 KiB on a disk of
# 50 MiB/s, in a file or on a part of the disk: 4 KiB that are written make a
# cluster, or two subclusters. Everything is made anew for each round. Writes are
# counted: 1500 of them meet half of the clusters.

mib=128
memory=3072
file_disk=2G,bps=52428800
anew=yes
clocks=(wall)
contenders=(clusters subclusters diskclusters disksubclusters)
workloads=(randwrite-4k-32)

make_images() {
	head -c "${mib}M" /dev/urandom >"$1/raw"
	qemu-img convert -q -f raw -O qcow2 "$1/raw" "$1/qcow2"
	rm "$1/raw"
	qemu-img create -q -f qcow2 -u -F qcow2 -b below "$1/clusters" "${mib}M"
	qemu-img create -q -f qcow2 -u -F qcow2 -b below -o extended_l2=on \
		"$1/subclusters" "${mib}M"
}

fill() {
	dd if="$images/$1" of="$2" bs=1M oflag=direct conv=notrunc status=none
}

job() {
	printf '%s\n' "size=${mib}M" number_ios=1500
}
