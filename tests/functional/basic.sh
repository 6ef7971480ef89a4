#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Guest data on each kind of host: parallel differential I/O by us, then by
# QEMU, then by us again.
#
# smp
# vm: -m 2048 -c 2 -d 1G -d 1G -d 256M -d 256M,bs=4096 -t 600
# debug: ext4|512|small cache

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

size=40M

image_on() {
	case $1 in
	512) echo /dev/vdc ;;
	4096) echo /dev/vdd ;;
	*) echo "$mnt/$1/image" ;;
	esac
}

# Commands for qemu-io, the same for an image and for its model.
random_writes() {
	local n kind

	for ((n = 0; n < 40; n++)); do
		case $((RANDOM % 5)) in
		0) kind='write -z' ;;
		1) kind='write -z -u' ;;
		*) kind="write -P $((RANDOM % 256))" ;;
		esac
		echo "$kind $((RANDOM * 1200 / 512 * 512)) $(((RANDOM % 400 + 1) * 512))"
	done
	echo flush
}

qemu_writes() {
	local image=$1 name=$2

	RANDOM=${SEED:-$((16#$(od -A n -t x2 -N 2 /dev/urandom | xargs)))}
	random_writes >"$tmp/commands"
	qemu-io -f qcow2 "$image" <"$tmp/commands" >/dev/null
	qemu-io -f raw "$tmp/model.$name" <"$tmp/commands" >/dev/null
}

test_differential() {
	local image=$1

	shift
	create "$image" $size
	model a $size
	attach a "$image" "$@"
	run_io a -j 4 -t 2 ${2+-a "$2"}
	[[ $(mode a) == rw ]]
	done_with a "$image"
	cp --sparse=always "$tmp/model.a" "$tmp/kept"
}

# What is there by now comes from us; half of it becomes QEMU's.
test_taking_turns() {
	local image=$1

	mv "$tmp/kept" "$tmp/model.a"
	qemu_writes "$image" a
	attach a "$image"
	run_io a -v
	run_io a -j 8 -t 1
	done_with a "$image"
}

# Nothing is cached by us below the bound, which is far too small here.
test_small_cache() {
	local image

	image=$(image_on ext4)
	create "$image" $size cluster_size=4k
	model a $size
	attach a "$image" cache_bytes 65536
	run_io a -j 8 -t 2
	done_with a "$image"
}

host_fs ext4 /dev/vda
host_fs xfs /dev/vdb
for host in ext4 xfs 512 4096; do
	try "differential on $host" test_differential "$(image_on $host)"
	try "QEMU and we take turns on $host" test_taking_turns "$(image_on $host)"
done
try "sector_size 4096 on ext4" \
	test_differential "$(image_on ext4)" sector_size 4096
try "sector_size 4096 on 4096" \
	test_differential "$(image_on 4096)" sector_size 4096
try "small cache" test_small_cache
finish
