#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What is below fails: the right request gets an error, the mode says what became
# of the image, nothing that was flushed is lost, and when the fault has gone
# everything works again. Where the kernel can, single requests below fail, early
# and late ones, and allocations of the module at random.
#
# CYCLES=N sets how often each fault comes (default: 6).
#
# vm: -m 2048 -c 2 -d 64M -d 512M -t 1200
# debug: slabs
# brief: bad sectors|quota

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

cycles=${CYCLES:-$(few 6 4)}
disk=/dev/mapper/disk
sectors=$(blockdev --getsz /dev/vda)
faults=/sys/kernel/debug

# change COMMAND...: what it prints is now the table of $disk. What waits for
# the old one gets its errors.
change() {
	dmsetup suspend --noflush --nolockfs disk
	"$@" | dmsetup load disk
	dmsetup resume disk
}

sound() {
	echo "0 $sectors linear /dev/vda 0"
}

dead() {
	echo "0 $sectors error"
}

unwritable() {
	echo "0 $sectors flakey /dev/vda 0 0 3600 1 error_writes"
}

# bad_sector BYTES: one that cannot be used.
bad_sector() {
	local n=$(($1 / 512))

	((n == 0)) || echo "0 $n linear /dev/vda 0"
	echo "$n 1 error"
	echo "$((n + 1)) $((sectors - n - 1)) linear /dev/vda $((n + 1))"
}

shorter() {
	echo "0 $1 linear /dev/vda 0"
}

set_up() {
	sound | dmsetup create disk
	rm -f "$tmp/ledger"
	create $disk 32M "$@"
}

# be64 FILE OFFSET
be64() {
	od -A n -v -t u8 --endian=big -j "$2" -N 8 "$1" | tr -d ' '
}

write_until_it_fails() {
	"$diffio" -p "$tmp/ledger" -j 4 -m 131072 "$@" /dev/mapper/a
}

# Errors are not allowed, leaks are; a leak is mended, or the next cycle would
# not know its own.
holds() {
	local status=0

	qemu-img check -f qcow2 $disk >"$tmp/check" 2>&1 || status=$?
	((status == 0 || status == 3)) || fail "$(cat "$tmp/check")"
	((status == 0)) || qemu-img check -q -f qcow2 -r leaks $disk
	qemu-img convert -f qcow2 -O raw $disk "$tmp/raw"
	"$diffio" -p "$tmp/ledger" -v "$tmp/raw"
	rm "$tmp/raw"
}

read_cluster() {
	dd if=/dev/mapper/a of=/dev/null bs=64k count=1 skip="$1" iflag=direct
}

write_cluster() {
	dd if=/dev/urandom of=/dev/mapper/a bs=64k count=1 seek="$1" oflag=direct \
		"${@:2}"
}

# The disk fails under I/O, some time later it works again.
test_sudden() {
	local fault=$1 n io mode

	modprobe dm-flakey
	set_up "${@:2}"
	for ((n = 0; n < cycles; n++)); do
		attach a $disk
		write_until_it_fails -t 60 >"$tmp/io.log" &
		io=$!
		echo $io >>"$tmp/background"
		sleep "0.$((RANDOM % 8 + 1))"
		change "$fault"
		wait $io || true
		grep -q 'until the device failed' "$tmp/io.log" ||
			fail "$(cat "$tmp/io.log")"
		fails dd if=/dev/zero of=/dev/mapper/a bs=4k count=1 oflag=direct
		timeout 60 dmsetup suspend a
		dmsetup resume a
		mode=$(mode a)
		[[ $fault != unwritable || $mode == failed ]] ||
			dd if=/dev/mapper/a of=/dev/null bs=64k iflag=direct
		change sound
		# where something was lost, nobody is told that it was not
		case $mode in
		rw)
			write_until_it_fails -n 5 >"$tmp/io.log"
			fails grep 'until the device failed' "$tmp/io.log"
			;;
		ro | failed) fails write_cluster 1 ;;
		*) fail "mode $mode" ;;
		esac
		detach a
		holds
	done
	dmsetup remove disk
}

# Metadata that cannot be read, and can again.
test_unreadable() {
	local l1 l2 block

	set_up
	qemu-io -f qcow2 -c 'write -P 3 0 4M' $disk
	l1=$(be64 $disk 40)
	l2=$(($(be64 $disk "$l1") & 0xffffffffffffff))
	block=$(be64 $disk "$(be64 $disk 48)")

	change bad_sector 0
	fails attach a $disk
	change bad_sector "$l1"
	read_log
	fails attach a $disk
	kernel_says 'L1 table.*cannot be read'

	change bad_sector "$l2"
	attach a $disk
	fails read_cluster 1
	[[ $(mode a) == rw ]]
	change sound
	read_cluster 1
	detach a

	change bad_sector "$block"
	attach a $disk
	read_cluster 1
	fails write_cluster 1
	read_cluster 1
	change sound
	[[ $(mode a) == rw ]]
	write_cluster 1
	write_cluster 100 conv=fsync
	detach a
	good $disk

	# guest data: that cluster alone
	change bad_sector "$(($(be64 $disk "$l2") & 0xffffffffffffff))"
	attach a $disk
	fails read_cluster 0
	read_cluster 1
	write_cluster 2 conv=fsync
	change sound
	read_cluster 0
	[[ $(mode a) == rw ]]
	detach a
	good $disk
	dmsetup remove disk
}

test_shrinks() {
	set_up
	attach a $disk
	dd if=/dev/urandom of=/dev/mapper/a bs=1M count=20 oflag=direct
	sync /dev/mapper/a
	dd if=/dev/mapper/a of="$tmp/before" bs=1M count=20 iflag=direct
	change shorter $((sectors / 8))
	read_cluster 1
	fails dd if=/dev/mapper/a of=/dev/null bs=1M count=20 iflag=direct
	fails dd if=/dev/zero of=/dev/mapper/a bs=1M seek=20 count=4 oflag=direct
	timeout 60 dmsetup suspend a
	dmsetup resume a
	change sound
	cmp -n 20M "$tmp/before" /dev/mapper/a
	rm "$tmp/before"
	detach a
	good $disk
	dmsetup remove disk
}

anything() {
	dd if=/dev/mapper/a of=/dev/null bs=64k iflag=direct || true
	dd if=/dev/zero of=/dev/mapper/a bs=64k count=200 oflag=direct || true
	blkdiscard -o 1M -l 4M /dev/mapper/a || true
	dd if=/dev/zero of=/dev/mapper/a bs=4k count=40 oflag=direct \
		conv=fsync || true
	timeout 60 dmsetup suspend a
	dmsetup resume a
}

spoil() {
	case $2 in
	cut) truncate -s 3M "$1" ;;
	empty) truncate -s 0 "$1" ;;
	garbage) dd if=/dev/urandom of="$1" bs=64k count=20 conv=notrunc ;;
	zeros) dd if=/dev/zero of="$1" bs=64k count=8 conv=notrunc ;;
	esac
}

# Somebody changes the file under a live device: errors, and nothing worse.
test_changes() {
	local dir=$mnt/ext4 how

	host_fs ext4 /dev/vdb
	for how in cut empty garbage zeros; do
		create "$dir/image" 32M
		echo "of another" >"$dir/neighbour"
		qemu-io -f qcow2 -c 'write -P 3 0 8M' "$dir/image"
		attach a "$dir/image"
		read_cluster 1
		write_cluster 300
		spoil "$dir/image" $how
		echo 3 >/proc/sys/vm/drop_caches
		anything
		detach a
		[[ $(<"$dir/neighbour") == "of another" ]]
	done
	umount "$dir"
}

# A quota is a host that is full.
test_quota() {
	local dir=$mnt/xfs image=$mnt/xfs/images/image

	modprobe xfs
	mkdir -p "$dir"
	mkfs.xfs -q -f -K /dev/vdb
	mount -o prjquota /dev/vdb "$dir"
	mkdir "$dir/images"
	xfs_quota -x -c "project -s -p $dir/images 7" "$dir" >/dev/null
	xfs_quota -x -c "limit -p bhard=30m 7" "$dir"
	create "$image" 64M
	attach a "$image"
	fails dd if=/dev/urandom of=/dev/mapper/a bs=1M count=40 oflag=direct
	[[ $(mode a) == no_space ]] || fail "mode $(mode a)"
	dd if=/dev/mapper/a of="$tmp/before" bs=1M count=10 iflag=direct
	sync /dev/mapper/a
	xfs_quota -x -c "limit -p bhard=200m 7" "$dir"
	dmsetup message a 0 retry
	[[ $(mode a) == rw ]]
	dd if=/dev/urandom of=/dev/mapper/a bs=1M count=20 seek=30 oflag=direct \
		conv=fsync
	cmp -n 10M "$tmp/before" /dev/mapper/a
	rm "$tmp/before"
	detach a
	good "$image"
	umount "$dir"
}

# --- where the kernel injects faults -----------------------------------------

# inject NAME SETTING VALUE...
inject() {
	local name=$1

	shift
	while (($#)); do
		echo "$2" >"$faults/$name/$1"
		shift 2
	done
}

# The first request after so many bytes fails; from then on all are good.
test_single_requests() {
	local line bytes n left hit=0

	set_up cluster_size=4k
	inject fail_make_request probability 100 interval 1 verbose 0
	echo 1 >/sys/block/vda/make-it-fail
	line=$(table $disk)
	for ((n = 0; n < 2 * cycles; n++)); do
		# the header and the L1 table are 68 KiB; then come tables and data
		bytes=$((n * n * 4096 + RANDOM % 4096))
		inject fail_make_request space "$bytes" times 1
		if dmsetup create a --table "$line"; then
			write_until_it_fails -n 25 || true
			dmsetup suspend a
			dmsetup resume a
			detach a
		fi
		left=$(<"$faults/fail_make_request/times")
		((left)) || hit=$((hit + 1))
		inject fail_make_request times 0
		echo 0 >/sys/block/vda/make-it-fail
		[[ ! -e $tmp/ledger ]] || holds
		echo 1 >/sys/block/vda/make-it-fail
	done
	echo 0 >/sys/block/vda/make-it-fail
	echo "$hit of $n requests have failed"
	((hit > n / 2)) || fail "only $hit of $n requests have failed"
	dmsetup remove disk
}

# in_the_module NAME: what the module asks for, and nobody else.
in_the_module() {
	local text size

	text=$(</sys/module/dm_qcow2/sections/.text)
	size=$(awk '$1 == "dm_qcow2" { print $2 }' /proc/modules)
	inject "$1" require-start "$text" stacktrace-depth 32 \
		require-end "$(printf '%#x' $((text + size)))" \
		interval 1 verbose 0 ignore-gfp-wait N
	[[ $1 != fail_page_alloc ]] ||
		inject "$1" ignore-gfp-highmem N min-order 0
}

# test_no_memory NAME: allocations that the module asked for fail now and then.
test_no_memory() {
	local name=$1 n refused=0 failed=0

	set_up cluster_size=4k
	in_the_module "$name"
	inject "$name" times -1
	for ((n = 0; n < 2 * cycles; n++)); do
		# at first all of them: nothing can be attached
		inject "$name" probability $((n == 0 ? 100 : n % 3 ? 2 : 20))
		if ! attach a $disk; then
			refused=$((refused + 1))
			inject "$name" probability 0
			continue
		fi
		write_until_it_fails -n 40 || failed=$((failed + 1))
		dmsetup suspend a
		dmsetup resume a
		inject "$name" probability 0
		detach a
		holds
	done
	echo "$refused attachments were refused, $failed runs had errors"
	((refused)) || fail "nothing was refused"
	dmsetup remove disk
}

# test_one_allocation NAME SPACE: of an attached device one allocation fails, and
# only that one, after as much as the expression says of test n: bytes or, where
# they are counted, pages. Nothing that was flushed may be lost, and without a
# reload the device goes on.
test_one_allocation() {
	local name=$1 n left hit=0 failed=0

	set_up cluster_size=4k
	in_the_module "$name"
	for ((n = 0; n < 4 * cycles; n++)); do
		attach a $disk
		inject "$name" probability 100 times 1 \
			space $(($2))
		write_until_it_fails -n 25 || failed=$((failed + 1))
		dmsetup suspend a
		dmsetup resume a
		left=$(<"$faults/$name/times")
		inject "$name" probability 0
		((left)) || hit=$((hit + 1))
		[[ $(mode a) == rw ]] || fail "mode $(mode a)"
		write_until_it_fails -n 5
		detach a
		holds
	done
	echo "$hit of $n allocations have failed, $failed runs had errors"
	((hit > n / 2)) || fail "only $hit of $n allocations have failed"
	dmsetup remove disk
}

RANDOM=${SEED:-$$}
try "nothing works" test_sudden dead
try "nothing can be written" test_sudden unwritable cluster_size=4k
try "bad sectors" test_unreadable
try "a device that shrinks" test_shrinks
try "a file that changes" test_changes
try "quota" test_quota
if [[ -d $faults/failslab ]]; then
	try "single requests" test_single_requests
	try "no slabs" test_no_memory failslab
	try "no pages" test_no_memory fail_page_alloc
	try "one slab less" test_one_allocation failslab 'n * n * 512 + RANDOM % 512'
	try "one page less" test_one_allocation fail_page_alloc n
fi
finish
