#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# How often an image that nothing is known of makes the disk move: at attach, and
# for the first reads. The disk counts.
#
# brief: on a device|four
# vm: -m 1024 -c 2 -d 17G -d 34G -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

host=$mnt/ext4

# disk_reads DISK: so far
disk_reads() {
	local n _

	read -r n _ <"/sys/block/$1/stat"
	echo "$n"
}

forget() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# costs DISK COMMAND...: sets $cost to the reads of a disk of which nothing is in
# memory.
costs() {
	local disk=$1 before

	shift
	forget
	before=$(disk_reads "$disk")
	"$@"
	cost=$(($(disk_reads "$disk") - before))
	echo "$cost reads: $*"
}

# plug NAME LINE: the line was made before, or it would be our own read that counts.
plug() {
	dmsetup create "$1" --table "$2"
}

at_most() {
	((cost <= $1)) || fail "$cost reads, and not $1"
}

# A device, whatever the size: the header, and the L1 table or the first part of it.
test_device() {
	local size=$1 line

	shift
	create /dev/vda "$size" "$@"
	line=$(table /dev/vda no_readahead)
	costs vda plug a "$line"
	at_most 2
	detach a
	costs vda qcow2setup info /dev/vda
	at_most 2
	costs vda qcow2setup table /dev/vda
	at_most 2
}

new_host() {
	! mountpoint -q "$host" || umount "$host"
	host_fs ext4 /dev/vdb
}

# What is cached of the filesystem goes with the mount; what the mount itself reads
# is not counted, and nothing goes on in the background.
remount() {
	umount "$host"
	forget
	mount -o noinit_itable,no_prefetch_block_bitmaps /dev/vdb "$host"
}

raw_block() {
	local loop

	loop=$(losetup --find --show --direct-io=on "$1")
	dd if="$loop" of=/dev/null bs=4k count=1 skip=1000 iflag=direct
	losetup -d "$loop"
}

test_file() {
	local raw line

	new_host
	fallocate -l 1G "$host/raw"
	create "$host/image" 32G "$@"
	line=$(table "$host/image" no_readahead)
	remount
	costs vdb raw_block "$host/raw"
	raw=$cost
	remount
	costs vdb plug a "$line"
	at_most $((raw + 2))
	detach a
	umount "$host"
}

plug_all() {
	local name

	for name in "${!lines[@]}"; do
		plug "$name" "${lines[$name]}"
	done
}

test_four() {
	local n
	local -A lines

	new_host
	for n in a b c d; do
		create "$host/$n" 16G preallocation=metadata
		lines[$n]=$(table "$host/$n" no_readahead)
	done
	remount
	costs vdb plug_all
	at_most 24
	for n in a b c d; do
		detach $n
	done
	umount "$host"
}

# Two for each layer that is not open yet, above what the files themselves cost.
test_chain() {
	local n depth=12 layers=() below=() opened line

	new_host
	create "$host/0" 4G
	for ((n = 1; n < depth; n++)); do
		qemu-img create -q -f qcow2 -F qcow2 -b "$host/$((n - 1))" "$host/$n"
		layers=(backing qcow2 "$host/$((n - 1))" "${layers[@]}")
		below+=("$host/$((n - 1))")
	done
	line=$(table "$host/$((depth - 1))" no_readahead "${layers[@]}")
	remount
	costs vdb stat "$host/$((depth - 1))" "${below[@]}"
	opened=$cost
	remount
	costs vdb plug a "$line"
	at_most $((opened + 2 * depth))
	# all but the top are open now
	qemu-img create -q -f qcow2 -F qcow2 -b "$host/$((depth - 2))" "$host/other"
	line=$(table "$host/other" no_readahead "${layers[@]}")
	costs vdb plug b "$line"
	at_most 4
	detach b
	detach a
	umount "$host"
}

# reads_of NAME COUNT GIB: as many reads of 4 KiB, anywhere.
reads_of() {
	fio --name=cold --filename="/dev/mapper/$1" --direct=1 --rw=randread --bs=4k \
		--norandommap=1 --randseed=7 --size="$3G" --number_ios="$2" \
		--output="$tmp/fio.log"
}

all_read() {
	local before

	before=$(field a 12)
	sleep 1
	[[ $(field a 12) == "$before" ]]
}

# With 64 KiB clusters, 16 GiB have 32 L2 tables: each comes with one read. Those
# that nobody has waited for are there when somebody comes.
test_first_reads() {
	local cold

	create /dev/vda 16G preallocation=metadata
	attach a /dev/vda no_readahead
	costs vda reads_of a 500 16
	cold=$cost
	((cold > 500)) || fail "the tables were there already"
	at_most 532
	detach a
	attach a /dev/vda
	until_ok 60 all_read
	(($(field a 12) >= 32)) || fail "$(dmsetup status a)"
	costs vda reads_of a 500 16
	at_most 500
	detach a
	good /dev/vda
}

# 4 KiB clusters: 2,048 tables for 4 GiB, at first each somewhere else.
test_optimize() {
	local scattered packed

	create /dev/vda 4G cluster_size=4k
	attach a /dev/vda
	# a table, then its data, as a guest that writes from end to end makes them
	fio --name=fill --filename=/dev/mapper/a --direct=1 --rw=write --bs=4k \
		--zonemode=strided --zonesize=4k --zonerange=2M --size=4G \
		--io_size=8M --output="$tmp/fio.log"
	detach a
	good /dev/vda
	attach a /dev/vda no_readahead
	costs vda reads_of a 500 4
	scattered=$cost
	detach a
	qcow2setup optimize /dev/vda
	good /dev/vda
	attach a /dev/vda no_readahead
	costs vda reads_of a 500 4
	packed=$cost
	detach a
	echo "$scattered reads before, $packed after"
	((scattered > 400)) || fail "they were not scattered"
	((packed <= 16)) || fail "they are not together"
}

try "on a device, 16 GiB, 64 KiB clusters" test_device 16G preallocation=metadata
try "on a device, 16 GiB, 4 KiB clusters" test_device 16G cluster_size=4k
try "on a device, an L1 table of 2 MiB" test_device 1T cluster_size=8k
try "in a file, 64 KiB clusters" test_file
try "in a file, 4 KiB clusters" test_file cluster_size=4k
try "four at once" test_four
try "a chain" test_chain
try "the first reads" test_first_reads
try "the first reads after optimize" test_optimize
finish
