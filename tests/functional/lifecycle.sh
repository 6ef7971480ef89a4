#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The life of a device: tables, suspend, remove, sharing, locks, status, events.
#
# brief: table line|suspend under|while suspended|keeps us out|no space
# vm: -m 2048 -c 2 -d 1G -d 64M -d 128M -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
image=$dir/image

new_image() {
	create "$image" 32M
	model a 32M
}

# --- tables ------------------------------------------------------------------

test_table() {
	local odd="$dir/a b\\c	d#" line

	create "$odd" 16M
	attach a "$odd" sector_size 4096 cache_bytes 2000000
	line=$(dmsetup table a)
	[[ $line == *"sector_size 4096"*"cache_bytes 2000000"* ]]
	dmsetup load a --table "$line"
	dmsetup resume a
	[[ $(dmsetup table a) == "$line" ]]
	detach a
	dmsetup create a --table "$line"
	[[ $(dmsetup table a) == "$line" ]]
	[[ $(blockdev --getss /dev/mapper/a) == 4096 ]]
	detach a
	attach a "$odd" read_only
	[[ $(dmsetup table a) == *' 1 read_only' ]]
	detach a
	rm "$odd"

	create /dev/vdb 16M
	attach a /dev/vdb
	[[ $(dmsetup table a) == "0 32768 qcow2 /dev/vdb" ]]
	detach a
	# a device without a path has no lock
	line="0 32768 qcow2 $(stat -c %Hr:%Lr /dev/vdb)"
	dmsetup create a --table "$line"
	[[ $(dmsetup table a) == "$line" ]]
	[[ $(field a 18) == none ]]
	detach a
}

test_reload() {
	local _

	new_image
	attach a "$image"
	start_io 3
	for _ in 1 2 3 4 5; do
		dmsetup load a --table "$(dmsetup table a)"
		sleep 0.1
		dmsetup resume a
	done
	# one that is never used, and one that is shorter
	dmsetup load a --table "$(dmsetup table a)"
	dmsetup clear a
	end_io
	dmsetup load a --table "0 1024 qcow2 $image"
	dmsetup resume a
	[[ $(blockdev --getsz /dev/mapper/a) == 1024 ]]
	dmsetup load a --table "$(table "$image")"
	dmsetup resume a
	[[ $(blockdev --getsz /dev/mapper/a) == 65536 ]]
	done_with a "$image"
}

# When another target has taken its place, nothing holds the image.
test_replaced() {
	new_image
	attach a "$image"
	run_io a -n 50
	dmsetup load a --table "0 65536 zero"
	dmsetup resume a
	good "$image"
	same "$image" "$tmp/model.a"
	detach a
}

# --- suspend and remove ------------------------------------------------------

test_suspend() {
	local option

	new_image
	attach a "$image"
	start_io 4
	for option in --noflush --nolockfs '' --noflush; do
		sleep 0.2
		dmsetup suspend a $option
		[[ $(dmsetup info a) == *SUSPENDED* ]]
		[[ $(mode a) == rw ]]
		[[ $option == --noflush ]] || {
			# what is suspended is clean on the disk
			cp --sparse=always "$image" "$tmp/scratch"
			good "$tmp/scratch"
		}
		dmsetup resume a
	done
	end_io
	done_with a "$image"
}

test_remove() {
	new_image
	attach a "$image"
	start_io "$(few 5 20)"
	fails dmsetup remove a
	end_io
	start_io "$(few 3 20)"
	dmsetup remove --deferred a
	dmsetup info a
	end_io
	until_ok 10 fails dmsetup info a
	good "$image"
	same "$image" "$tmp/model.a"
}

# Nothing waits for I/O that cannot be sent while a device is suspended.
test_remove_suspended() {
	new_image
	attach a "$image"
	run_io a -n 50
	dmsetup suspend a
	detach a
	good "$image"
	same "$image" "$tmp/model.a"
}

# --- sharing and locks -------------------------------------------------------

test_second_writer() {
	new_image
	ln "$image" "$dir/hard"
	ln -s image "$dir/soft"
	attach a "$image"
	for name in "$image" "$dir/hard" "$dir/soft" "$dir/../ext4/./image"; do
		fails attach b "$name"
		kernel_says 'attached for writing by another device'
	done
	fails attach b "$image" read_only
	run_io a -n 20
	detach a
	attach a "$dir/hard"
	fails attach b "$dir/soft"
	detach a
	rm "$dir/hard" "$dir/soft"

	create /dev/vdb 16M
	attach a /dev/vdb
	fails attach b /dev/vdb
	fails dmsetup create b --table "0 32768 qcow2 $(stat -c %Hr:%Lr /dev/vdb)"
	fails mount /dev/vdb "$mnt"
	detach a
}

test_readers() {
	new_image
	attach a "$image"
	run_io a -n 100
	detach a
	cp --sparse=always "$image" "$tmp/scratch"
	attach a "$image" read_only
	attach b "$image" read_only
	ln -f "$tmp/model.a" "$tmp/model.b"
	run_io a -r -n 100
	run_io b -v
	fails dd if=/dev/zero of=/dev/mapper/a bs=4k count=1 oflag=direct
	fails attach c "$image"
	kernel_says 'attached read-only'
	detach a
	run_io b -v
	detach b
	dmsetup create a --readonly --table "$(table "$image")"
	[[ $(blockdev --getro /dev/mapper/a) == 1 ]]
	run_io a -v
	detach a
	cmp "$image" "$tmp/scratch"
}

# qemu_holds OPTION...: a server that has the image open; ends with the test.
qemu_holds() {
	rm -f "$tmp/socket"
	background qemu-nbd -t -f qcow2 -k "$tmp/socket" "$@"
	qemu=$!
	until_ok 20 test -S "$tmp/socket"
}

qemu_lets_go() {
	kill "$qemu"
	wait "$qemu" || true
}

test_lock_of_qemu() {
	local qemu

	new_image
	create /dev/vdb 16M
	for name in "$image" /dev/vdb; do
		qemu_holds "$name"
		fails attach a "$name"
		kernel_says 'in use by another program.*QEMU'
		fails attach a "$name" read_only
		qemu_lets_go
	done
	qemu_holds -r "$image"
	fails attach a "$image"
	attach a "$image" read_only
	[[ $(field a 18) == qemu ]]
	qemu_lets_go
	detach a
}

test_lock_of_ours() {
	new_image
	create /dev/vdb 16M
	for name in "$image" /dev/vdb; do
		attach a "$name"
		[[ $(field a 18) == qemu ]]
		fails qemu-img check -f qcow2 "$name" 2>&1 | grep -i lock
		qemu-img info -U -f qcow2 "$name"
		# a program that could look does not take our lock along
		fails qemu-io -f qcow2 -c 'write 0 4k' "$name" 2>&1 | grep -i lock
		detach a
		good "$name"
	done
	attach a "$image" read_only
	good "$image"
	fails qemu-io -f qcow2 -c 'write 0 4k' "$image" 2>&1 | grep -i lock
	detach a
	qemu-io -f qcow2 -c 'write 0 4k' "$image"
}

test_untouched() {
	new_image
	qemu-io -f qcow2 -c 'write -P 5 1M 3M' -c 'write -z 8M 1M' "$image"
	qemu-img convert -f qcow2 -O raw "$image" "$tmp/model.a"
	cp --sparse=always "$image" "$tmp/scratch"
	attach a "$image"
	detach a
	cmp "$image" "$tmp/scratch"
	attach a "$image"
	run_io a -r -n 100
	dmsetup suspend a
	dmsetup resume a
	dd if=/dev/null of=/dev/mapper/a conv=fsync,notrunc status=none
	detach a
	cmp "$image" "$tmp/scratch"
}

# --- status and events -------------------------------------------------------

test_status() {
	local number='[0-9]+' line before after

	new_image
	attach a "$image"
	line=$(dmsetup status a)
	echo "$line"
	[[ $line =~ ^0\ 65536\ qcow2\ rw\ -\ 65536(\ $number){4}\ $number/$number(\ $number){9}\ (qemu|none)$ ]]
	((${#line} < 300))
	[[ $(field a 4) == 0 && $(field a 5) == 0 ]]
	before=$(field a 13)
	dd if=/dev/urandom of=/dev/mapper/a bs=64k count=10 oflag=direct
	(($(field a 4) == 10 && $(field a 5) >= 10))
	(($(field a 9) > 0))
	sync /dev/mapper/a
	after=$(field a 13)
	((after > before && $(field a 9) == 0))
	dd if=/dev/mapper/a of=/dev/null bs=64k count=10 iflag=direct
	(($(field a 10) > 0 && $(field a 16) + $(field a 17) >= 20))
	detach a
	good "$image"
}

events() {
	dmsetup info -c --noheadings -o events a
}

# The file cannot grow and finds out.
fill_host() {
	dd if=/dev/zero of="$mnt/small/ballast" bs=1M status=none || true
	sync "$mnt/small"
	fails dd if=/dev/zero of=/dev/mapper/a bs=64k seek="$1" oflag=direct
	[[ $(mode a) == no_space ]]
}

write_clusters() {
	dd if="$tmp/scratch" of=/dev/mapper/a bs=64k seek="$1" count=8 \
		oflag=direct conv=fsync,notrunc status=none
}

test_no_space() {
	local event waiter

	mkdir -p "$mnt/small"
	mkfs.ext4 -q -F -b 4096 /dev/vdb
	mount /dev/vdb "$mnt/small"
	create "$mnt/small/image" 48M
	model a 48M
	attach a "$mnt/small/image"
	dd if=/dev/urandom of="$tmp/scratch" bs=1M count=4 status=none
	dd if="$tmp/scratch" of=/dev/mapper/a bs=1M oflag=direct status=none
	event=$(events)
	background dmsetup wait a "$event"
	waiter=$!
	fill_host 100
	wait $waiter
	(($(events) > event))

	# reads, overwrites, flush and suspend go on
	cmp -n 4M "$tmp/scratch" /dev/mapper/a
	write_clusters 0
	timeout 20 dmsetup suspend a
	dmsetup resume a

	# with room again: the message ...
	rm "$mnt/small/ballast"
	dmsetup message a 0 retry
	[[ $(mode a) == rw ]]
	write_clusters 600
	# ... or just the next write
	fill_host 200
	rm "$mnt/small/ballast"
	write_clusters 620
	[[ $(mode a) == rw ]]
	cmp -n 4M "$tmp/scratch" /dev/mapper/a
	cmp -n 512K "$tmp/scratch" /dev/mapper/a -i 0:$((620 * 65536))
	detach a
	good "$mnt/small/image"
	umount "$mnt/small"
}

read_on() {
	while [[ -e $tmp/scratch ]]; do
		dd if=/dev/mapper/a of=/dev/null bs=64k count=200 iflag=direct
	done
}

# Not enough room on a device: what is discarded is space at once, whoever reads
# meanwhile.
test_device_full() {
	create /dev/vdb 128M
	model a 128M
	attach a /dev/vdb
	fails dd if=/dev/zero of=/dev/mapper/a bs=1M oflag=direct
	[[ $(mode a) == no_space ]]
	touch "$tmp/scratch"
	background read_on
	for _ in 1 2 3; do
		blkdiscard -l 32M /dev/mapper/a
		dd if=/dev/urandom of=/dev/mapper/a bs=1M count=32 oflag=direct
		[[ $(mode a) == rw ]]
	done
	rm "$tmp/scratch"
	wait
	detach a
	good /dev/vdb
}

test_messages() {
	new_image
	attach a "$image"
	dmsetup message a 0 retry
	dmsetup message a 0 RETRY
	[[ $(mode a) == rw ]]
	fails dmsetup message a 0 nonsense
	fails dmsetup message a 0 retry now
	detach a
}

host_fs ext4 /dev/vda
try "table line round trip" test_table
try "reload under I/O" test_reload
try "replaced by another target" test_replaced
try "suspend under I/O" test_suspend
try "remove" test_remove
try "remove while suspended" test_remove_suspended
try "no second writer" test_second_writer
try "readers share" test_readers
try "QEMU's lock keeps us out" test_lock_of_qemu
try "our lock keeps QEMU out" test_lock_of_ours
try "nothing written, nothing changed" test_untouched
try "status" test_status
try "no space and back" test_no_space
try "device full" test_device_full
try "messages" test_messages
finish
