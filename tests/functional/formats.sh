#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Every feature of the format on the device: chains of raw and qcow2 layers made
# by QEMU with each kind of entry side by side, compressed clusters, extended L2
# entries, external data files, discard and write-zeroes.
#
# vm: -m 2048 -c 2 -d 1G -d 1G -d 256M -t 1200
# debug: extended L2, compressed|^data file
# brief: ^zlib|five under|^data file|256|buffered|^space$

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
size=24M
writes=$(few 60 25)

# Commands for qemu-io on an image of that many MiB: something of every kind.
# QEMU 7.2 damages compressed clusters with extended L2 entries when it zeroes
# a part of them, so there is one or the other.
commands() {
	local mib=$1 what=$2 n at

	for ((n = 0; n < writes; n++)); do
		at=$((RANDOM * 32768 % (mib << 20) + RANDOM % 64 * 512))
		at=$((at % ((mib << 20) - 262144)))
		case $((RANDOM % 8)) in
		0 | 1) [[ $what == raw || $what == plain ]] ||
			echo "write -c -P $((RANDOM % 256)) $((at / 65536 * 65536)) 64k" ;;
		2) [[ $what == raw || $what == extended ]] ||
			echo "write -z $at $((RANDOM % 300 * 512 + 512))" ;;
		3) [[ $what == raw || $what == extended ]] ||
			echo "write -z -u $at $((RANDOM % 300 * 512 + 512))" ;;
		4) [[ $what == raw || $what == extended ]] ||
			echo "discard $at 128k" ;;
		*) echo "write -P $((RANDOM % 256)) $at $((RANDOM % 300 * 512 + 512))" ;;
		esac
	done
}

# layer NAME FORMAT SIZE KIND BACKING [OPTION]...: BACKING is "FORMAT NAME" or -
# In one of some hundred images QEMU 7.2 puts compressed data into a cluster that
# it has given to something else; such a one is made anew.
layer() {
	local tries

	for tries in 1 2 3; do
		make_layer "$@"
		[[ $2 != raw ]] || return 0
		! qemu-img check -q -f qcow2 "$dir/$1" || return 0
	done
	fail "QEMU's check fails $tries times"
}

make_layer() {
	local name=$1 format=$2 bytes=$3 kind=$4 backing=$5 args=()

	shift 5
	rm -f "$dir/$name"
	if [[ $format == raw ]]; then
		truncate -s "$bytes" "$dir/$name"
	else
		[[ $backing == - ]] ||
			args=(-F "${backing% *}" -b "$dir/${backing#* }")
		qemu-img create -q -f qcow2 ${1+-o "$(IFS=,; echo "$*")"} \
			"${args[@]}" "$dir/$name" "$bytes"
	fi
	# it exits with 1 where a cluster cannot be compressed into
	commands "${bytes%M}" "$kind" |
		qemu-io -f "$format" "$dir/$name" >/dev/null 2>&1 || true
}

# What the guest reads, as QEMU has it.
model_of() {
	rm -f "$tmp/model.a"
	qemu-img convert -f qcow2 -O raw "$1" "$tmp/model.a"
}

# on_device IMAGE [TABLE-OPTION]...: read, change, read; QEMU agrees.
on_device() {
	local image=$1

	model_of "$image"
	attach a "$@"
	run_io a -v
	run_io a -z -j 4 -t 1
	dmsetup suspend a
	qemu-img check -U -f qcow2 "$image"
	dmsetup resume a
	run_io a -z -j 4 -n 40
	[[ $(mode a) == rw ]]
	done_with a "$image"
}

test_alone() {
	layer top qcow2 $size "$1" - "${@:2}"
	on_device "$dir/top"
}

test_over_raw() {
	layer base raw 20M raw -
	truncate -s -100 "$dir/base"
	layer top qcow2 $size plain "raw base" "$@"
	on_device "$dir/top" backing raw "$dir/base"
}

test_chain() {
	local sums

	layer l4 raw 30M raw -
	layer l3 qcow2 20M compressed "raw l4" cluster_size=64k,compression_type=zstd
	layer l2 qcow2 28M extended "qcow2 l3" extended_l2=on,cluster_size=64k
	layer l1 qcow2 24M plain "qcow2 l2" cluster_size=4k
	layer top qcow2 $size compressed "qcow2 l1" "$@"
	sums=$(sha256sum "$dir"/l?)
	on_device "$dir/top" backing qcow2 "$dir/l1" backing qcow2 "$dir/l2" \
		backing qcow2 "$dir/l3" backing raw "$dir/l4"
	[[ $sums == "$(sha256sum "$dir"/l?)" ]] || fail "a layer has changed"
}

test_base_on_device() {
	qemu-img create -q -f qcow2 /dev/vdc $size
	commands 24 plain | qemu-io -f qcow2 /dev/vdc >/dev/null 2>&1 || true
	qemu-img create -q -f qcow2 -F qcow2 -b /dev/vdc "$dir/top" $size
	on_device "$dir/top" backing qcow2 /dev/vdc
}

test_data_file() {
	layer top qcow2 $size plain - "data_file=$dir/data" "$@"
	on_device "$dir/top" data_file "$dir/data"
	[[ $* != *raw=on* ]] || cmp "$dir/data" "$tmp/model.a"
	rm "$dir/data"
}

# What two snapshots hold is the same afterwards.
test_snapshots() {
	local n sums=()

	layer top qcow2 $size compressed - "$@"
	for n in 0 1; do
		qemu-img snapshot -c s$n "$dir/top"
		commands 24 plain | qemu-io -f qcow2 "$dir/top" >/dev/null 2>&1 || true
		sums[n]=$(snapshot_sum s$n)
	done
	on_device "$dir/top"
	for n in 0 1; do
		[[ $(snapshot_sum s$n) == "${sums[n]}" ]] || fail "s$n has changed"
		qemu-img snapshot -d s$n "$dir/top"
	done
	good "$dir/top"
}

snapshot_sum() {
	qemu-img convert -f qcow2 -l snapshot.name="$1" -O raw "$dir/top" "$tmp/s"
	sha256sum <"$tmp/s"
	rm "$tmp/s"
}

test_bitmaps() {
	local before

	layer top qcow2 $size plain -
	qemu-img bitmap --add -f qcow2 "$dir/top" b0
	qemu-img bitmap --add --disable -f qcow2 "$dir/top" b1
	before=$(sha256sum <"$dir/top")
	model_of "$dir/top"
	attach a "$dir/top"
	run_io a -v
	detach a
	[[ $before == "$(sha256sum <"$dir/top")" ]] || fail "reading changes it"
	on_device "$dir/top"
	[[ $(qemu-img info "$dir/top" | grep -c in-use) == 2 ]]
	qemu-img bitmap --remove "$dir/top" b0
	qemu-img bitmap --remove "$dir/top" b1
	good "$dir/top"
}

# test_dirty IMAGE QEMU-IMG-OPTION...: a writer that was lazy about refcounts
# did not close the image.
test_dirty() {
	local image=$1 options

	options=$(IFS=,; echo "compat=1.1,lazy_refcounts=on${2+,${*:2}}")
	qemu-img create -q -f qcow2 -o "$options" "$image" $size
	{ commands 24 plain; echo flush; echo abort; } |
		qemu-io -f qcow2 "$image" >/dev/null 2>&1 || true
	is_dirty "$image"
	model_of "$image"
	attach a "$image"
	run_io a -v
	run_io a -z -j 4 -n 40
	[[ $(mode a) == rw ]]
	detach a
	is_dirty "$image"
	attach a "$image"
	run_io a -v
	run_io a -z -n 20
	detach a
	is_dirty "$image"
	qemu-img check -q -r all -f qcow2 "$image"
	good "$image"
	same "$image" "$tmp/model.a"
}

is_dirty() {
	[[ $(od -A n -t u1 -j 79 -N 1 "$1") == *1 ]] || fail "$1 is not dirty"
}

# Data at the bottom of 256 layers.
test_deep() {
	local n options=()

	layer m000 raw 4M raw -
	qemu-img create -q -f qcow2 -u -F raw -b "$dir/m000" "$dir/m001" 4M
	qemu-img create -q -f qcow2 -u -F qcow2 -b "$dir/mXXX" "$dir/next" 4M
	# 254 times qemu-img would take a minute
	python3 - "$dir" <<-'EOF'
		import sys
		image = open(sys.argv[1] + "/next", "rb").read()
		for n in range(2, 256):
		    with open("%s/m%03d" % (sys.argv[1], n), "wb") as f:
		        f.write(image.replace(b"mXXX", b"m%03d" % (n - 1)))
	EOF
	for n in {255..001}; do
		options+=(backing qcow2 "$dir/m$n")
	done
	qemu-img create -q -f qcow2 -u -F qcow2 -b "$dir/m255" "$dir/top" 4M
	cp --sparse=always "$dir/m000" "$tmp/model.a"
	attach a "$dir/top" "${options[@]}" backing raw "$dir/m000"
	run_io a -v
	run_io a -z -n 50
	detach a
	qemu-img check -q -f qcow2 "$dir/top"
	rm -f "$dir"/m* "$dir/next"
}

# Many overlays over one base, which is open once.
test_many_overlays() {
	local count n before after line tables=''

	count=$(few 100 20)

	layer base qcow2 $size compressed - cluster_size=64k
	qemu-img convert -f qcow2 -O raw "$dir/base" "$tmp/model.base"
	qemu-img create -q -f qcow2 -F qcow2 -b "$dir/base" "$dir/o0" $size
	line=$(table "$dir/o0" backing qcow2 "$dir/base")
	# no program for each: here they take long to start
	for ((n = 0; n < count; n++)); do
		tables+="o$n,,,rw,${line/"$dir/o0"/$dir/o$n};"
		((!n)) || echo "$dir/o$n"
	done >"$tmp/overlays"
	xargs -a "$tmp/overlays" tee <"$dir/o0" >/dev/null
	before=$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)
	dmsetup create --concise "${tables%;}"
	after=$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)
	echo "memory for each of $count: $(((before - after) / count)) KiB"
	for n in 0 $((count / 2)) $((count - 1)); do
		cp --sparse=always "$tmp/model.base" "$tmp/model.o$n"
		run_io "o$n" -v
		run_io "o$n" -z -n 30
	done
	for ((n = 0; n < count; n++)); do
		echo "o$n"
	done | xargs dmsetup remove
	for n in 0 $((count / 2)) $((count - 1)); do
		good "$dir/o$n"
		same "$dir/o$n" "$tmp/model.o$n"
	done
	rm -f "$dir"/o* "$tmp"/model.*
}

# reads NAME: reads all of a device; prints how often that has read /dev/vdb.
reads() {
	local before after _

	read -r before _ </sys/block/vdb/stat
	dd if="/dev/mapper/$1" of=/dev/null bs=64k iflag=direct status=none
	read -r after _ </sys/block/vdb/stat
	echo $((after - before))
}

# Two overlays over one base, and the host reads the base once.
test_buffered_backing() {
	local n base=$mnt/xfs/base sum line options

	host_fs xfs /dev/vdb
	layer ../xfs/raw raw 20M raw -
	layer ../xfs/base qcow2 $size compressed "raw ../xfs/raw" cluster_size=64k
	sum=$(sha256sum "$mnt"/xfs/*)
	options=(backing qcow2 "$base" backing raw "$mnt/xfs/raw")
	for n in a b; do
		qemu-img create -q -f qcow2 -F qcow2 -b "$base" "$dir/$n" $size
		qemu-img convert -f qcow2 -O raw "$dir/$n" "$tmp/model.$n"
		attach $n "$dir/$n" "${options[@]}"
	done
	reads a >/dev/null
	n=$(reads b)
	((n > 20)) || fail "without the option: $n reads"
	line=$(table "$dir/a" buffered_backing "${options[@]}")
	dmsetup load a --table "$line"
	dmsetup suspend a
	dmsetup resume a
	[[ $(dmsetup table a) == "$line" ]] || fail "$line: $(dmsetup table a)"
	detach b
	attach b "$dir/b" buffered_backing "${options[@]}"
	sync
	echo 3 >/proc/sys/vm/drop_caches
	n=$(reads a)
	((n > 20)) || fail "for the first: $n reads"
	n=$(reads b)
	((n == 0)) || fail "for the second: $n reads"
	run_io a -v
	run_io b -v
	run_io a -z -j 4 -n 50
	run_io b -z -j 4 -n 50
	# as long as one wants it
	detach a
	n=$(reads b)
	((n == 0)) || fail "after the first is gone: $n reads"
	detach b
	for n in a b; do
		good "$dir/$n"
		same "$dir/$n" "$tmp/model.$n"
	done
	[[ $sum == "$(sha256sum "$mnt"/xfs/*)" ]] || fail "the base has changed"
	umount "$mnt/xfs"
}

# What must not be, and says why.
test_refused() {
	local line

	layer base qcow2 $size plain -
	layer other qcow2 $size plain -
	layer top qcow2 $size plain "qcow2 base"
	fails attach a "$dir/top"
	kernel_says 'names a backing file'
	fails attach a "$dir/base" backing qcow2 "$dir/other"
	kernel_says 'names no backing file'
	fails attach a "$dir/top" backing qcow2 "$dir/top" \
		backing qcow2 "$dir/base"
	kernel_says 'its own layer'
	fails attach a "$dir/top" backing vmdk "$dir/base"
	kernel_says 'must be qcow2 or raw'
	fails attach a "$dir/top" backing raw "$dir/base" backing raw "$dir/other"
	kernel_says 'raw layer has no backing'
	fails attach a "$dir/top" backing qcow2 "$dir/missing"
	kernel_says 'no such layer'
	fails attach a "$dir/top" data_file "$dir/other" backing qcow2 "$dir/base"
	kernel_says 'no external data file'
	attach a "$dir/top" backing qcow2 "$dir/base"
	line=$(dmsetup table a)
	[[ $line == *" qcow2 $dir/top 3 backing qcow2 $dir/base" ]]
	# the base of a live device is nobody's to write
	fails attach b "$dir/base"
	kernel_says 'read-only; detach it first|in use'
	attach b "$dir/base" read_only
	fails qemu-io -f qcow2 -c 'write 0 512' "$dir/base"
	# nor is a live image anybody's layer
	qemu-img create -q -f qcow2 -u -F qcow2 -b "$dir/top" "$dir/over" $size
	fails attach c "$dir/over" backing qcow2 "$dir/top" backing qcow2 "$dir/base"
	kernel_says 'written|attached for writing'
	detach b
	detach a
}

# Space that is discarded goes back to the host, and with the option it does not.
test_space() {
	local used

	create "$dir/top" $size
	attach a "$dir/top"
	dd if=/dev/urandom of=/dev/mapper/a bs=1M count=20 oflag=direct status=none
	blkdiscard /dev/mapper/a
	detach a
	used=$(stat -c %b "$dir/top")
	((used < 8000)) || fail "$used sectors are still used"
	good "$dir/top"
	create "$dir/top" $size
	attach a "$dir/top" no_discard_passdown
	dd if=/dev/urandom of=/dev/mapper/a bs=1M count=20 oflag=direct status=none
	blkdiscard /dev/mapper/a
	detach a
	used=$(stat -c %b "$dir/top")
	((used > 40000)) || fail "only $used sectors are still used"
	good "$dir/top"
}

shrunk() {
	(($(stat -c %b "$dir/top") < 10000))
}

# Nobody flushes, and what was discarded is given back all the same.
test_space_when_idle() {
	create "$dir/top" $size
	attach a "$dir/top"
	dd if=/dev/urandom of=/dev/mapper/a bs=1M count=24 oflag=direct conv=fsync status=none
	fails shrunk
	blkdiscard /dev/mapper/a
	until_ok 60 shrunk
	detach a
	good "$dir/top"
}

# A compressed cluster that is not fails alone.
test_bad_compressed() {
	create "$dir/top" $size
	qemu-io -f qcow2 -c 'write -c -P 1 0 64k' -c 'write -c -P 2 64k 64k' \
		"$dir/top" >/dev/null
	poke "$dir/top" $((5 * 65536)) ffffffffffffffff
	attach a "$dir/top"
	fails dd if=/dev/mapper/a of=/dev/null bs=64k count=1 iflag=direct
	kernel_says 'cannot be decompressed'
	dd if=/dev/mapper/a bs=64k count=1 skip=1 iflag=direct status=none |
		cmp - <(head -c 65536 /dev/zero | tr '\0' '\2')
	[[ $(mode a) == rw ]]
	dd if=/dev/zero of=/dev/mapper/a bs=64k count=1 oflag=direct status=none
	dd if=/dev/mapper/a of=/dev/null bs=64k count=1 iflag=direct status=none
	detach a
	good "$dir/top"
}

RANDOM=${SEED:-$$}
host_fs ext4 /dev/vda
try "zlib and zeros" test_alone compressed
try "zstd" test_alone compressed compression_type=zstd,cluster_size=64k
try "discard, clusters of 512" test_alone plain cluster_size=512
try "version 2" test_alone compressed compat=0.10
try "extended L2" test_alone plain extended_l2=on
try "extended L2, compressed" test_alone extended extended_l2=on
try "over a raw base" test_over_raw
try "extended L2 over a raw base" test_over_raw extended_l2=on,cluster_size=128k
try "a chain of five" test_chain cluster_size=64k
try "a chain of five under extended L2" test_chain extended_l2=on
try "a base on a device" test_base_on_device
try "data file" test_data_file
try "raw data file" test_data_file data_file_raw=on
try "snapshots" test_snapshots cluster_size=64k
try "snapshots, extended L2" test_snapshots extended_l2=on,compat=1.1
try "bitmaps" test_bitmaps
try "dirty" test_dirty "$dir/top"
try "dirty, on a device" test_dirty /dev/vdc cluster_size=4k
try "256 layers" test_deep
try "many overlays" test_many_overlays
try "buffered backing" test_buffered_backing
try "refused" test_refused
try "space" test_space
try "space of an idle device" test_space_when_idle
try "a bad compressed cluster" test_bad_compressed
finish
