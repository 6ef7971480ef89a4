#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Devices that get larger while they are in use.
#
# vm: -m 1024 -c 2 -d 2G -d 256M -d 48M -t 600
# debug: the table moves
# brief: under I/O$|mounted

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
image=$dir/image

# has SIZE: the device and the model, from here on.
has() {
	local bytes
	bytes=$(numfmt --from=iec "$1")

	[[ $(blockdev --getsize64 /dev/mapper/a) == "$bytes" ]]
	truncate -s "$bytes" "$tmp/model.a"
}

# grow IMAGE [OPTION]...: under I/O, by an L1 table that stays or moves.
grow() {
	local size

	create "$1" 32M "${@:2}"
	model a 32M
	qcow2setup open "$1" a
	start_io 4
	for size in 33M +1M 64M +64M; do
		sleep 0.5
		qcow2setup resize a "$size"
	done
	end_io
	has 128M
	run_io a -t 3
	done_with a "$1"
}

# What the layer below has behind the old end must not be seen.
over_longer() {
	create "$dir/base" 64M
	qemu-io -f qcow2 -c 'write -P 66 0 64M' "$dir/base" >/dev/null
	rm -f "$image"
	qemu-img create -q -f qcow2 -b "$dir/base" -F qcow2 "$image" 16793088
	qemu-io -f qcow2 -c 'write -P 67 16M 512' "$image" >/dev/null
	qemu-img convert -f qcow2 -O raw "$image" "$tmp/model.a"
	qcow2setup open "$image" a
	qcow2setup resize a 96M
	has 96M
	cmp /dev/mapper/a "$tmp/model.a"
	done_with a "$image"
	rm "$dir/base"
}

data_file() {
	rm -f "$dir/data"
	create "$image" 16M data_file="$dir/data" data_file_raw=on
	model a 16M
	qcow2setup open "$image" a
	run_io a -t 1
	qcow2setup resize a 24M
	has 24M
	run_io a -t 1
	done_with a "$image"
	cmp -n $((24 << 20)) "$dir/data" "$tmp/model.a"
	rm "$dir/data"
}

with_snapshot() {
	create "$image" 16M
	qemu-io -f qcow2 -c 'write -P 1 0 16M' "$image" >/dev/null
	qemu-img snapshot -c one "$image"
	qemu-img convert -f qcow2 -O raw "$image" "$tmp/model.one"
	cp "$tmp/model.one" "$tmp/model.a"
	qcow2setup open "$image" a
	run_io a -t 1
	qcow2setup resize a 48M
	has 48M
	done_with a "$image"
}

# A filesystem that is mounted is frozen, grows, and goes on.
mounted() {
	create "$image" 64M
	qcow2setup open "$image" a
	mkfs.ext4 -q -F /dev/mapper/a
	mkdir -p "$mnt/inner"
	mount /dev/mapper/a "$mnt/inner"
	head -c 8M /dev/urandom >"$tmp/scratch"
	cp "$tmp/scratch" "$mnt/inner/first"
	(while :; do echo more; done >"$mnt/inner/log") &
	echo $! >>"$tmp/background"
	qcow2setup resize a 256M
	resize2fs /dev/mapper/a
	kill $!
	head -c 100M /dev/zero >"$mnt/inner/second"
	cmp "$tmp/scratch" "$mnt/inner/first"
	umount "$mnt/inner"
	e2fsck -fn /dev/mapper/a
	detach a
	good "$image"
}

by_hand() {
	create "$image" 32M
	model a 32M
	attach a "$image" sector_size 4096
	run_io a -a 4096 -n 50
	fails dmsetup message a 0 resize $((64 << 20))
	kernel_says 'suspend the device first'
	dmsetup suspend --noflush a
	dmsetup message a 0 resize $((64 << 20))
	# the device is as long as it was until it has another table
	dmsetup resume a
	has 32M
	run_io a -a 4096 -n 50
	fails dmsetup message a 0 resize $((65 << 20))
	dmsetup load a --table "$(table "$image" sector_size 4096)"
	dmsetup resume a
	has 64M
	# nobody has said that this one runs, but it does
	fails dmsetup message a 0 resize $((65 << 20))
	run_io a -a 4096 -n 50
	qcow2setup resize a 80M
	[[ $(dmsetup table a) == *sector_size\ 4096* ]]
	has 80M
	done_with a "$image"
}

# refused STATUS TEXT ARGUMENT...: and the device runs on.
refused() {
	local want=$1 text=$2 words status=0

	shift 2
	words=$(qcow2setup resize "$@" 2>&1) || status=$?
	((status == want)) || fail "exit status $status, not $want: $words"
	[[ $words == *"$text"* ]] || fail "$words"
	run_io a -n 20
}

refusals() {
	create "$image" 32M cluster_size=512
	model a 32M
	attach a "$image"
	refused 1 'can only grow' a 16M
	refused 1 'are the largest size' a 129G
	refused 1 'is no size' a much
	refused 5 'it is attached as a' "$image" 64M
	dmsetup suspend a
	fails dmsetup message a 0 resize
	fails dmsetup message a 0 resize $((16 << 20))
	kernel_says 'would be lost'
	fails dmsetup message a 0 resize 33554433
	kernel_says 'multiple of 512'
	fails dmsetup message a 0 resize many
	dmsetup resume a
	done_with a "$image"

	attach a "$image" read_only
	dmsetup suspend a
	fails dmsetup message a 0 resize $((64 << 20))
	kernel_says 'read-only'
	dmsetup resume a
	fails qcow2setup resize a 64M
	detach a
	[[ $(sectors "$image") == 65536 ]]
}

# The host has no space for the table: the device runs on as it was.
no_space() {
	create /dev/vdc 32M cluster_size=512
	model a 32M
	qcow2setup open /dev/vdc a
	run_io a -n 100
	refused 1 'no space on the host' a 128G
	[[ $(mode a) == rw ]]
	has 32M
	qcow2setup resize a 64M
	has 64M
	run_io a -n 100
	done_with a /dev/vdc
}

host_fs ext4 /dev/vda
try "under I/O" grow "$image"
try "under I/O, the table moves" grow "$image" cluster_size=512
try "under I/O, on a device" grow /dev/vdb cluster_size=4k,extended_l2=off
try "over a longer layer" over_longer
try "with a data file" data_file
try "with a snapshot" with_snapshot
try "a mounted filesystem" mounted
try "by hand" by_hand
try "what is refused" refusals
try "no space" no_space
finish
