#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A disk that loses its power: what a flush or a FUA write has confirmed is
# there afterwards, on an image without errors. null_blk loses what is in its
# cache when it is switched off.
#
# CYCLES=N cuts that often in each test (default: 5).
#
# brief: on ext4|detach|dead
# vm: -m 2048 -c 2 -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=tests/lib/crypt.sh
source "$root/tests/lib/crypt.sh"

cycles=${CYCLES:-$(few 5 3)}
knob=/sys/kernel/config/nullb/cut
disk=''

# What a test that failed has left.
clear_away() {
	[[ -d $knob ]] || return 0
	! mountpoint -q "$mnt/disk" || umount "$mnt/disk"
	power_off
	rmdir "$knob"
}

set_up_disk() {
	modprobe null_blk nr_devices=0
	clear_away
	mkdir "$knob"
	echo 1 >"$knob/memory_backed"
	echo 400 >"$knob/size"
	# when it is full, older writes become durable, in no order
	echo "$1" >"$knob/cache_size"
	# with larger sectors it overruns its pages where memory is not aligned
	echo 512 >"$knob/blocksize"
	# a flush can wait for ever for a page of a write that waits for memory:
	# it goes round and round, and has the only processor
	echo 1 >"$knob/hw_queue_depth"
	power_on
	# the name depends on the kernel
	disk=/dev/cut
	[[ -b $disk ]] || disk=/dev/nullb$(<"$knob/index")
	[[ -b $disk ]]
}

power_on() {
	echo 1 >"$knob/power"
}

power_off() {
	echo 0 >"$knob/power"
}

drop_disk() {
	power_off
	rmdir "$knob"
}

# Where the image is in each case; without a filesystem it is the disk.
bring_up() {
	[[ $1 == device ]] || mount -t "$1" "$disk" "$mnt/disk"
}

bring_down() {
	[[ $1 == device ]] || umount "$mnt/disk"
}

# Of the image that $how names. Errors are not allowed, leaks are; a leak is mended, or the next cycle would
# not know its own.
check_image() {
	local status=0

	qemu-img check "${how[@]}" >"$tmp/check" 2>&1 || status=$?
	((status == 0 || status == 3)) || fail "$(cat "$tmp/check")"
	((status == 0)) || {
		leaks=$((leaks + 1))
		qemu-img check -q -r leaks "${how[@]}" >/dev/null
	}
}

# One life of the disk, in which somebody writes until the lights go out.
cycle() {
	local host=$1 image=$2 io

	bring_up "$host"
	check_image
	attach a "$image" "${options[@]}"
	"$diffio" -p "$tmp/ledger" -v /dev/mapper/a
	"$diffio" ${SEED+-s "$SEED"} -p "$tmp/ledger" -j 4 -m 131072 -t 60 /dev/mapper/a \
		>"$tmp/io.log" &
	io=$!
	echo $io >>"$tmp/background"
	sleep "0.$((RANDOM % 8 + 2))"
	kill -0 "$io"
	power_off
	wait "$io"
	cat "$tmp/io.log"
	grep -q 'until the device failed' "$tmp/io.log"
	detach a
	bring_down "$host"
	power_on
}

# test_power_cuts HOST CACHED [CIPHER]: so many MiB are in the disk's cache.
test_power_cuts() {
	local host=$1 image=$mnt/disk/image leaks=0 n how options=()

	set_up_disk "$2"
	mkdir -p "$mnt/disk"
	rm -f "$tmp/ledger"
	if [[ $host == device ]]; then
		image=$disk
	else
		modprobe "$host"
		"mkfs.$host" -q "$disk"
	fi
	bring_up "$host"
	if [[ ${3-} ]]; then
		luks "$image" 32M "$3"
		options=(luks "$cipher" "$key")
		how=("${secret[@]}" --image-opts "$(qemu_opts "$image")")
	else
		create "$image" 32M
		how=(-f qcow2 "$image")
	fi
	sync "$image"
	bring_down "$host"
	for ((n = 0; n < cycles; n++)); do
		cycle "$host" "$image"
	done
	bring_up "$host"
	check_image
	qemu-img convert -O raw "${how[@]}" "$tmp/scratch"
	"$diffio" -p "$tmp/ledger" -v "$tmp/scratch"
	bring_down "$host"
	drop_disk
	echo "leaks after $leaks of $cycles cuts"
}

# What is suspended, or detached, is durable as it is.
test_orderly() {
	local image=$mnt/disk/image

	set_up_disk 64
	mkdir -p "$mnt/disk"
	mkfs.ext4 -q "$disk"
	bring_up ext4
	create "$image" 32M
	sync "$image"
	model a 32M
	attach a "$image"
	run_io a -n 100
	dmsetup suspend a
	power_off
	dmsetup remove a
	bring_down ext4
	power_on
	bring_up ext4
	good "$image"
	same "$image" "$tmp/model.a"

	attach a "$image"
	run_io a -n 100
	detach a
	sync "$mnt/disk"
	power_off
	bring_down ext4
	power_on
	bring_up ext4
	good "$image"
	same "$image" "$tmp/model.a"
	bring_down ext4
	drop_disk
}

# The disk dies and stays dead: errors, but nobody hangs.
test_dead_disk() {
	set_up_disk 4
	create "$disk" 32M
	attach a "$disk"
	dd if=/dev/urandom of=/dev/mapper/a bs=64k count=10 oflag=direct
	power_off
	fails dd if=/dev/urandom of=/dev/mapper/a bs=64k count=10 \
		oflag=direct conv=fsync
	fails dd if=/dev/mapper/a of=/dev/null bs=64k count=10 iflag=direct
	timeout 20 dmsetup suspend a
	dmsetup resume a
	detach a
	rmdir "$knob"
}

RANDOM=${SEED:-$$}
try "power cuts, device" test_power_cuts device 2
try "power cuts, file on ext4" test_power_cuts ext4 4
try "power cuts, file on xfs" test_power_cuts xfs 4
try "power cuts, encrypted, device" test_power_cuts device 2 aes-xts-plain64
try "power cuts, encrypted, file on ext4" test_power_cuts ext4 4 aes-cbc-essiv:sha256
try "power cut after suspend and detach" test_orderly
try "dead disk" test_dead_disk
finish
