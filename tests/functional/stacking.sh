#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Stacks of filesystems and targets in a guest whose memory somebody takes away
# while it writes: nobody waits for ever, what was written is there after a
# remount, and the image is good. See "Stacking and memory pressure" in
# Documentation/testing.rst. LOAD_SECONDS=N writes for so long in each test.
#
# quick: ^xfs on a file on ext4$|crypt below|error|full
# brief: ^xfs on a file on ext4$
# vm: -m 512 -c 1 -d 2G -d 2G -d 1G -d 64M -t 2400

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=tests/lib/zfs.sh
source "$root/tests/lib/zfs.sh"

pressure=$root/build/tests/functional/pressure
seconds=${LOAD_SECONDS:-$(few 8 5)}
seed=${SEED:-$((RANDOM + 1))}
host=$mnt/host
guest=$mnt/guest
image=$host/image
size=448M
reserve=${VM_SLOW:+160}
mkdir -p "$host" "$guest"

# A task that waits longer is a failure, and the end of the guest.
[[ -e /proc/sys/kernel/hung_task_timeout_secs ]] || fail "no hung-task detector"
echo 120 >/proc/sys/kernel/hung_task_timeout_secs

# --- filesystems -------------------------------------------------------------

# From the top to the bottom. What is suspended cannot be unmounted.
tidy() {
	set +e
	[[ ! -e $tmp/background ]] || xargs -r kill <"$tmp/background"
	dmsetup ls | awk '{ print $1 }' | xargs -r -n 1 dmsetup resume
	zfs_down guest
	! mountpoint -q "$guest" || umount "$guest"
	clean_up
	losetup -D
	zfs_down host
	! mountpoint -q "$host" || umount "$host"
} &>/dev/null

# fs_make TYPE DEVICE PLACE: a new filesystem, mounted on $mnt/PLACE.
fs_make() {
	trap tidy EXIT
	case $1 in
	ext4) mkfs.ext4 -q -F -E nodiscard "$2" ;;
	xfs) mkfs.xfs -q -f -K "$2" ;;
	zfs)
		zfs_up "$3"
		pool_of "$3" zpool create -f -o cachefile=none -m "$mnt/$3" "$3" "$2"
		return ;;
	esac
	fs_mount "$@"
}

fs_mount() {
	if [[ $1 == zfs ]]; then
		pool_of "$3" zpool import -o cachefile=none -d "$(dirname "$2")" "$3"
	else
		modprobe "$1" || true
		# a device that is suspended is not mounted
		until_ok 30 mount -t "$1" "$2" "$mnt/$3"
	fi
}

fs_umount() {
	if [[ $1 == zfs ]]; then
		pool_of "$3" zpool export "$3"
	else
		umount "$mnt/$3"
	fi
}

# Changes nothing; ZFS has compared the sums of what was read.
fs_check() {
	case $1 in
	ext4) e2fsck -f -n "$2" ;;
	xfs) xfs_repair -n "$2" ;;
	zfs)
		fs_mount "$@"
		pool_of "$3" zpool status -x "$3" | tee "$tmp/zpool"
		grep -q 'is healthy' "$tmp/zpool"
		fs_umount "$@" ;;
	esac
}

# --- the load ----------------------------------------------------------------

available() {
	awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo
}

# Takes the memory away, but for so much that nothing has to be killed.
hog_up() {
	local mib

	mib=$(($(available) - ${1:-${reserve:-100}}))
	((mib >= 32)) || fail "$mib MiB are not enough for a hog"
	"$pressure" -H $mib >"$tmp/hog.log" 2>&1 &
	hog=$!
	echo "$hog" >>"$tmp/background"
	until_ok 120 grep -q has "$tmp/hog.log"
}

hog_down() {
	kill "$hog"
	wait "$hog" || fail "$(cat "$tmp/hog.log")"
	cat "$tmp/hog.log"
}

# heavy FOLDER|DEVICE [OPTION]...: four writers, three times as much to write as
# there is memory for, and the hog.
heavy() {
	local what=$1 hog

	shift
	rm -f "$tmp/ledger"
	hog_up
	"$pressure" -s "$seed" -j 4 -m 64 -t "$seconds" "$@" "$what" "$tmp/ledger"
	free -m
	hog_down
}

# light FOLDER: 32 MiB, and memory enough.
light() {
	rm -f "$tmp/ledger"
	"$pressure" -s "$seed" -j 2 -m 16 -w 16 "$1" "$tmp/ledger"
}

verify() {
	"$pressure" -v "$1" "$tmp/ledger"
}

# on_device LOAD TYPE DEVICE: a filesystem on it, the load, the same files again
# after a remount.
on_device() {
	local load=$1 type=$2 device=$3

	fs_make "$type" "$device" guest
	$load "$guest"
	fs_umount "$type" "$device" guest
	fs_check "$type" "$device" guest
	fs_mount "$type" "$device" guest
	verify "$guest"
	fs_umount "$type" "$device" guest
}

# --- filesystems on filesystems ----------------------------------------------

test_pair() {
	local above=$1 below=$2

	fs_make "$below" /dev/vda host
	create "$image" $size
	attach a "$image"
	on_device heavy "$above" /dev/mapper/a
	detach a
	good "$image"
	fs_umount "$below" /dev/vda host
}

# Where a daemon writes the image, what a stack does under the same load with a
# loop device in it is what can be expected of it with ours.
test_on_zfs() {
	local above=$1 load=$2 start loop

	fs_make zfs /dev/vda host
	truncate -s $size "$host/raw"
	loop=$(losetup -f --show "$host/raw")
	start=$EPOCHREALTIME
	on_device "$load" "$above" "$loop"
	took "loop" "$start"
	losetup -d "$loop"
	rm "$host/raw"

	create "$image" $size
	attach a "$image"
	start=$EPOCHREALTIME
	on_device "$load" "$above" /dev/mapper/a
	took "dm-qcow2" "$start"
	detach a
	good "$image"
	fs_umount zfs /dev/vda host
}

# Also without V=1: to the log of the suite.
took() {
	echo "# $1: $(((${EPOCHREALTIME/./} - ${2/./}) / 1000)) ms" >&"$note"
}

# --- other targets above and below -------------------------------------------

key=$(printf '%064d' 42)

crypt_on() {
	modprobe dm-crypt || true
	dmsetup create "$1" --table "0 $(blockdev --getsz "$2") crypt \
		aes-xts-plain64 $key$key 0 $2 0"
}

test_crypt_above() {
	fs_make xfs /dev/vda host
	create "$image" $size
	attach a "$image"
	crypt_on c /dev/mapper/a
	on_device heavy ext4 /dev/mapper/c
	detach c
	detach a
	good "$image"
	umount "$host"
}

test_crypt_below() {
	crypt_on c /dev/vda
	create /dev/mapper/c $size
	attach a /dev/mapper/c
	on_device heavy xfs /dev/mapper/a
	detach a
	good /dev/mapper/c
	detach c
}

# The pool's data and metadata are on one device; the volume is larger.
thin_on() {
	local device=$1 sectors meta=32768

	sectors=$(blockdev --getsz "$device")
	modprobe dm-thin-pool || true
	dmsetup create meta --table "0 $meta linear $device 0"
	dd if=/dev/zero of=/dev/mapper/meta bs=4k count=1 oflag=direct status=none
	dmsetup create data --table "0 $((sectors - meta)) linear $device $meta"
	dmsetup create pool --table "0 $((sectors - meta)) thin-pool \
		/dev/mapper/meta /dev/mapper/data 128 64"
	dmsetup message pool 0 create_thin 0
	dmsetup create thin --table "0 $2 thin /dev/mapper/pool 0"
}

thin_gone() {
	local name

	for name in thin pool data meta; do
		detach $name
	done
}

test_thin_above() {
	fs_make ext4 /dev/vda host
	create "$image" $size
	attach a "$image"
	thin_on /dev/mapper/a $((1 << 21))
	on_device heavy xfs /dev/mapper/thin
	[[ $(dmsetup status pool) == *' rw '* ]]
	thin_gone
	detach a
	good "$image"
	umount "$host"
}

test_thin_below() {
	thin_on /dev/vda $((1 << 21))
	create /dev/mapper/thin $size
	attach a /dev/mapper/thin
	on_device heavy ext4 /dev/mapper/a
	detach a
	good /dev/mapper/thin
	thin_gone
}

# --- on itself ---------------------------------------------------------------

test_on_itself() {
	fs_make ext4 /dev/vda host
	create "$image" 1G
	attach a "$image"
	mkdir -p "$mnt/middle"
	fs_make xfs /dev/mapper/a middle
	create "$mnt/middle/image" $size cluster_size=4k
	attach b "$mnt/middle/image"
	on_device heavy ext4 /dev/mapper/b
	detach b
	good "$mnt/middle/image"
	umount "$mnt/middle"
	detach a
	good "$image"
	umount "$host"
}

test_devices_on_itself() {
	create /dev/vda 1G
	attach a /dev/vda
	create /dev/mapper/a 768M
	attach b /dev/mapper/a
	create /dev/mapper/b $size
	attach c /dev/mapper/b
	on_device heavy ext4 /dev/mapper/c
	detach c
	good /dev/mapper/b
	detach b
	good /dev/mapper/a
	detach a
	good /dev/vda
}

# --- tables that come and go -------------------------------------------------

# Until $tmp/scratch is gone. A filesystem that is being unmounted cannot be
# frozen: EINVAL, by the kernel.
churn() {
	local n name open

	# or nobody has it open between two of the writers
	# shellcheck disable=SC2034 # until we end
	exec {open}</dev/mapper/a
	for ((n = 0; ; n++)); do
		[[ -e $tmp/scratch ]] || break
		for name; do
			case $((n % 4)) in
			0) until_ok 30 dmsetup suspend "$name" ;;
			1) dmsetup suspend --noflush "$name" ;;
			2) dmsetup suspend --nolockfs "$name" ;;
			3)
				dmsetup load "$name" --table "$(dmsetup table "$name")"
				dmsetup clear "$name" ;;
			esac
			dmsetup load "$name" --table "$(dmsetup table "$name")"
			until_ok 30 dmsetup resume "$name"
		done
		fails dmsetup remove a
	done
	echo "$n rounds"
	((n > 2))
} &>"$tmp/churn.log"

churn_up() {
	touch "$tmp/scratch"
	churn "$@" &
	churning=$!
	echo "$churning" >>"$tmp/background"
}

churn_down() {
	rm "$tmp/scratch"
	wait "$churning" || fail "$(tail "$tmp/churn.log")"
	tail -n 1 "$tmp/churn.log"
}

test_churn() {
	local churning

	fs_make xfs /dev/vda host
	create "$image" 1G
	attach a "$image"
	create /dev/mapper/a $size
	attach b /dev/mapper/a
	churn_up b a
	on_device heavy ext4 /dev/mapper/b
	churn_down
	detach b
	good /dev/mapper/a
	detach a
	good "$image"
	umount "$host"
}

# What "remove --force" does with a device that is in use: from one moment to
# the next it is one that only fails. What was flushed before is there.
test_error() {
	local n io hog

	fs_make ext4 /dev/vda host
	create "$image" 64M
	rm -f "$tmp/ledger"
	hog_up
	for ((n = 0; n < $(few 5 2); n++)); do
		attach a "$image"
		"$diffio" -p "$tmp/ledger" -v /dev/mapper/a
		"$diffio" ${SEED+-s "$SEED"} -p "$tmp/ledger" -j 4 -m 131072 \
			-t 60 /dev/mapper/a >"$tmp/io.log" &
		io=$!
		echo $io >>"$tmp/background"
		until_ok 30 is_open
		sleep "1.$((RANDOM % 10))"
		kill -0 $io
		# if the writer still has it open it stays, as an error
		dmsetup remove --force a || [[ $(dmsetup table a) == *error* ]]
		wait $io
		grep 'until the device failed' "$tmp/io.log"
		good "$image"
		! dmsetup info a || detach a
	done
	hog_down
	attach a "$image"
	"$diffio" -p "$tmp/ledger" -v /dev/mapper/a
	detach a
	umount "$host"
}

fill_host() {
	! dd if=/dev/zero of="$host/ballast" bs=64k status=none
}

# Space comes and goes: until $tmp/scratch is gone. The host is full, and stays
# so until a writer has met it, however slow this machine is.
free_and_fill() {
	until dmesg | grep "no space for .* on the host" || [[ ! -e $tmp/scratch ]]; do
		sleep 0.2
	done
	while [[ -e $tmp/scratch ]]; do
		sleep 1
		rm -f "$host/ballast"
		sleep 0.5
		fill_host
	done
} &>/dev/null

# The host is full most of the time. Writers are told, wait, and try again.
test_full() {
	local churning filling hog

	modprobe "$1" || true
	fs_make "$1" "$2" host
	create "$image" $size
	attach a "$image"
	churn_up a
	fill_host
	free_and_fill &
	filling=$!
	echo $filling >>"$tmp/background"
	hog_up
	rm -f "$tmp/ledger"
	"$pressure" -s "$seed" -j 4 -m 3 -d -e -t "$seconds" /dev/mapper/a \
		"$tmp/ledger" | tee "$tmp/full.log"
	hog_down
	churn_down
	wait $filling
	rm -f "$host/ballast"
	dmsetup message a 0 retry
	[[ $(mode a) == rw ]]
	verify /dev/mapper/a
	detach a
	good "$image"
	attach a "$image" read_only
	verify /dev/mapper/a
	detach a
	umount "$host"
	! grep ' 0 times no space' "$tmp/full.log" || fail "was never full"
}

# --- swap --------------------------------------------------------------------

swapped() {
	echo $(($(awk -v n="pswp$1" '$1 == n { print $2 }' /proc/vmstat) / 256))
}

# An image whose every cluster is there, on a device, its metadata in memory:
# what is swapped is remapped, and nothing is needed for that. More is written
# to a tmpfs than there is memory, and pages of a process are compared.
test_swap() {
	local out in hog reads misses workers

	trap 'set +e; umount "$mnt/tmpfs"; swapoff -a' EXIT
	create /dev/vda 1G preallocation=metadata
	attach a /dev/vda
	mkswap /dev/mapper/a
	# every table, once
	dd if=/dev/mapper/a of=/dev/null bs=1M iflag=direct
	swapon /dev/mapper/a
	out=$(swapped out)
	in=$(swapped in)
	dmsetup status a
	misses=$(field a 11) reads=$(field a 12) workers=$(field a 17)
	mkdir -p "$mnt/tmpfs"
	mount -t tmpfs -o size=550m tmpfs "$mnt/tmpfs"
	rm -f "$tmp/ledger"
	hog_up 200
	"$pressure" -s "$seed" -j 2 -m 225 -w 250 "$mnt/tmpfs" "$tmp/ledger"
	dd if=/dev/urandom of="$mnt/tmpfs/more" bs=1M count=16
	verify "$mnt/tmpfs"
	hog_down
	out=$(($(swapped out) - out))
	in=$(($(swapped in) - in))
	dmsetup status a
	echo "# swapped $out MiB out, $in MiB in" >&"$note"
	((out > 200 && in > 50))
	[[ $(field a 11) == "$misses" && $(field a 12) == "$reads" ]] ||
		fail "metadata was read"
	echo "$(($(field a 17) - workers)) bios took a worker"
	umount "$mnt/tmpfs"
	trap - EXIT
	swapoff /dev/mapper/a
	detach a
	good /dev/vda
}

exec {note}>&1
echo "# seed $seed, $(available) MiB of memory"
for above in ext4 xfs zfs; do
	for below in ext4 xfs; do
		try "$above on a file on $below" test_pair $above $below
	done
done
for above in ext4 xfs zfs; do
	try "$above on a file on zfs" test_on_zfs $above light
done
# not without being asked
if [[ $pattern == *heavy* ]]; then
	for above in ext4 xfs zfs; do
		try "$above on a file on zfs, heavy" test_on_zfs $above heavy
	done
fi
try "dm-crypt above" test_crypt_above
try "dm-crypt below" test_crypt_below
try "dm-thin above" test_thin_above
try "dm-thin below" test_thin_below
try "on itself, files" test_on_itself
try "on itself, devices" test_devices_on_itself
try "churn" test_churn
try "replaced by an error" test_error
try "full, ext4" test_full ext4 /dev/vdd
try "swap" test_swap
finish
