#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Every write that reaches the disk is logged by dm-log-writes, and the disk is
# made again as a crash could have left it: the image has no errors; and as it was
# at marks: what was flushed before is there.
#
# CYCLES=N sets that many marks in each test (default: 6).
#
# vm: -m 2048 -c 2 -d 96M -d 4G -d 96M -t 1200
# brief: on top

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

cycles=${CYCLES:-$(few 6 3)}
replay=$root/build/tests/functional/replay
logged=/dev/mapper/logged

log_writes() {
	modprobe dm-log-writes
	# an older log is not to be taken for this one
	dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct status=none
	blkdiscard -f -z /dev/vda
	dmsetup create logged --table \
		"0 $(blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb"
	rm -f "$tmp"/ledger*
}

mark() {
	dmsetup message logged 0 mark "$1"
}

# Writes and flushes, and what has to be there from now on. dm-log-writes notes a
# FUA write when it is done and any other at the next flush, be it the older one.
change() {
	"$diffio" -o ${SEED+-s "$SEED"} -p "$tmp/ledger" -j 4 -m 65536 -n 25 \
		/dev/mapper/a
	cp "$tmp/ledger" "$tmp/ledger.$1"
	mark "$1"
}

# errors_of IMAGE: leaks are allowed.
errors_of() {
	local status=0

	qemu-img check -f qcow2 "$1" >"$tmp/check" 2>&1 || status=$?
	((status == 0 || status == 3)) || fail "$(cat "$tmp/check")"
}

holds() {
	errors_of "$1"
	qemu-img convert -f qcow2 -O raw "$1" "$tmp/raw"
	"$diffio" -p "$tmp/ledger.$2" -v "$tmp/raw"
	rm "$tmp/raw"
}

test_device() {
	local n i

	log_writes
	qemu-img create -q -f qcow2 -o "$1" $logged 16M
	mark made
	attach a $logged
	for ((n = 1; n <= cycles; n++)); do
		change $n
	done
	detach a
	dmsetup remove logged
	"$replay" states /dev/vdb made 30 "${SEED:-$$}"
	for ((n = 1; n <= cycles; n++)); do
		"$replay" to /dev/vdb $n "$tmp/disk"
		holds "$tmp/disk" $n
	done
	rm "$tmp/disk"
}

test_file() {
	local n image=$mnt/disk/image

	modprobe ext4
	mkdir -p "$mnt/disk"
	log_writes
	mkfs.ext4 -q $logged
	mount $logged "$mnt/disk"
	create "$image" 16M
	sync "$image"
	attach a "$image"
	for ((n = 1; n <= cycles; n++)); do
		change $n
	done
	detach a
	umount "$mnt/disk"
	dmsetup remove logged
	for ((n = 1; n <= cycles; n++)); do
		"$replay" to /dev/vdb $n /dev/vdc
		mount /dev/vdc "$mnt/disk"
		holds "$image" $n
		umount "$mnt/disk"
	done
}

# A file that has been synced has its bytes, whatever came later.
test_ext4_on_top() {
	local n i kept=10

	modprobe ext4
	mkdir -p "$mnt/guest"
	log_writes
	qemu-img create -q -f qcow2 -o "$1" $logged 48M
	attach a $logged
	mkfs.ext4 -q /dev/mapper/a
	mount /dev/mapper/a "$mnt/guest"
	for ((n = 1; n <= cycles; n++)); do
		head -c $((RANDOM * 40)) /dev/urandom >"$mnt/guest/f$n"
		cp "$mnt/guest/f$n" "$tmp/f$n"
		sync "$mnt/guest/f$n"
		mark $n
		# there is not room for all
		((n <= kept)) || rm "$mnt/guest/f$((n - kept))"
		# what is not synced may be lost, and goes in between
		head -c 300000 /dev/urandom >"$mnt/guest/other"
		((n % 3)) || rm "$mnt/guest/other"
	done
	umount "$mnt/guest"
	detach a
	dmsetup remove logged
	for ((n = 1; n <= cycles; n++)); do
		"$replay" to /dev/vdb $n /dev/vdc
		errors_of /dev/vdc
		attach b /dev/vdc
		mount /dev/mapper/b "$mnt/guest"
		for ((i = n > kept ? n - kept + 1 : 1; i <= n; i++)); do
			cmp "$tmp/f$i" "$mnt/guest/f$i"
		done
		umount "$mnt/guest"
		e2fsck -fn /dev/mapper/b
		detach b
	done
	rm "$tmp"/f[0-9]*
}

RANDOM=${SEED:-$$}
try "a device" test_device cluster_size=4k
try "a device, extended L2" test_device extended_l2=on,cluster_size=32k
try "a file on ext4" test_file
try "ext4 on top" test_ext4_on_top cluster_size=64k
finish
