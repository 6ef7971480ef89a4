#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Discard and write-zeroes against reads and writes of the same clusters, with
# commits all the time: a host cluster that is given out while somebody still
# uses it shows as a sector of another place, or an older one. Each fourth piece
# of the disk is slow to read, so that what is freed is written anew while old
# reads are under way.
#
# Each test races for RACE_SECONDS (default: 8); with 600, add -t 3000. On one
# stock kernel: what it looks for is our own order, and it takes three minutes.
#
# kernels: 6.12 debug kcsan
# smp
# vm: -m 2048 -c 2 -d 256M -d 256M -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

size=24M
seconds=${RACE_SECONDS:-8}
dir=$mnt/ext4
disk=/dev/mapper/disk
sectors=$(blockdev --getsz /dev/vda)

# change COMMAND...: what it prints is now the table of $disk, all of /dev/vda.
change() {
	dmsetup suspend disk
	"$@" | dmsetup load disk
	dmsetup resume disk
}

fast() {
	echo "0 $sectors linear /dev/vda 0"
}

# Each fourth 256 KiB takes 200 ms to be read.
slow() {
	local piece=512 n

	for ((n = 0; n < sectors; n += piece)); do
		echo "$n $piece delay /dev/vda $n $((n / piece % 4 ? 0 : 200))" \
			"/dev/vda $n 0"
	done
}

set_up_disk() {
	modprobe dm-delay
	fast | dmsetup create disk
}

# base FORMAT: a base whose sectors say what they are, and the model of that.
base() {
	model a $size
	truncate -s $size "$dir/base.raw"
	"$diffio" -n 300 "$dir/base.raw" "$tmp/model.a"
	[[ $1 == raw ]] ||
		qemu-img convert -O "$1" "$dir/base.raw" "$dir/base.$1"
}

# race IMAGE [TABLE-OPTION]...: $tmp/model.a has what is read at first.
race() {
	local image=$1 freed

	attach a "$@"
	change slow
	run_io a -x -j 16 -t "$seconds"
	# what the first race has left is what the second begins with
	run_io a -x -j 3 -t 2
	change fast
	run_io a -v
	[[ $(mode a) == rw ]]
	freed=$(field a 6)
	done_with a "$image"
	((freed)) || fail "no cluster was freed"
}

on_file() {
	set_up_disk
	host_fs ext4 $disk
	create "$dir/top" $size "$@"
	model a $size
	# or the filesystem waits for old reads where it frees the space
	race "$dir/top" no_discard_passdown
}

on_file_over_raw() {
	set_up_disk
	host_fs ext4 $disk
	base raw
	create "$dir/top" $size "backing_file=$dir/base.raw" backing_fmt=raw "$@"
	race "$dir/top" backing raw "$dir/base.raw"
}

on_device() {
	set_up_disk
	create $disk $size "$@"
	model a $size
	race $disk
}

on_device_over_qcow2() {
	host_fs ext4 /dev/vdb
	base qcow2
	set_up_disk
	create $disk $size "backing_file=$dir/base.qcow2" backing_fmt=qcow2 "$@"
	race $disk backing qcow2 "$dir/base.qcow2"
	umount "$dir"
}

try "a file" on_file cluster_size=4k
try "a file over a raw base" on_file_over_raw cluster_size=64k
try "a device" on_device cluster_size=4k
try "a device over a qcow2 base" on_device_over_qcow2 extended_l2=on
finish
