#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Every cluster size with every width of refcounts, both versions, with and
# without preallocated metadata.
#
# All images of one cluster size stand behind each other in the table of one
# device, so that one run of I/O and one comparison serve all of them.
#
# brief: of 4k$|devices
# vm: -m 2048 -c 2 -d 2G -d 512M -d 512M,bs=4096 -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
export -f good fail

# The options of each image of a cluster size, one a line.
variants() {
	local bits prealloc=off

	for bits in $(few "1 2 4 8 16 32 64" "1 16 64"); do
		echo "cluster_size=$1,refcount_bits=$bits,preallocation=$prealloc"
		[[ $prealloc == off ]] && prealloc=metadata || prealloc=off
	done
	echo "cluster_size=$1,compat=0.10"
}

# Small clusters make big tables, big ones need room.
size_for() {
	case $1 in
	512 | 1k) echo $((6 << 20)) ;;
	2M) echo $((24 << 20)) ;;
	*) echo $((12 << 20)) ;;
	esac
}

# slices COUNT SIZE: images are parts of both disks in turn.
slices() {
	local n disk

	for ((n = 0; n < $1; n++)); do
		disk=/dev/vd$( ((n % 2)) && echo c || echo b)
		dmsetup create "slice$n" \
			--table "0 $((2 * $2 / 512)) linear $disk $((n / 2 * 2 * $2 / 512))"
		echo "/dev/mapper/slice$n"
	done
}

# Each creation is half a second of one processor.
create_all() {
	local size=$1 n

	for n in "${!images[@]}"; do
		printf '%s\n' -o "${options[n]}" "${images[n]}" "$size"
	done | xargs -d '\n' -n 4 -P 2 qemu-img create -q -f qcow2
}

join() {
	local size=$1 n

	for n in "${!images[@]}"; do
		echo "$((n * size / 512)) $((size / 512)) qcow2 ${images[n]}"
	done
}

# Uses $images and $options.
run_all() {
	local size=$1

	create_all "$size"
	model a $((size * ${#images[@]}))
	join "$size" | dmsetup create a
	run_io a -j 6 -t 5
	detach a
	# shellcheck disable=SC2016 # for the other shell
	printf '%s\n' "${images[@]}" |
		xargs -n 1 -P 2 bash -c 'good "$1"' -
	qemu-img convert -f qcow2 -O raw "${images[@]}" "$tmp/scratch/raw"
	cmp "$tmp/scratch/raw" "$tmp/model.a"
}

test_files() {
	local images=() options n

	mkdir "$tmp/scratch"
	rm -f "$dir"/[0-9]* # but lost+found
	mapfile -t options < <(variants "$1")
	for n in "${!options[@]}"; do
		images+=("$dir/$n")
	done
	run_all "$(size_for "$1")"
}

test_devices() {
	# shellcheck disable=SC2054 # the commas are QEMU's
	local images options=(
		cluster_size=512
		cluster_size=512
		cluster_size=2k,refcount_bits=1
		cluster_size=2k,preallocation=metadata
		cluster_size=64k,refcount_bits=64
		cluster_size=64k,compat=0.10
		cluster_size=2M,preallocation=metadata
		cluster_size=2M,refcount_bits=2
	)

	mkdir "$tmp/scratch"
	mapfile -t images < <(slices ${#options[@]} $((24 << 20)))
	run_all $((12 << 20))
}

host_fs ext4 /dev/vda
for cluster in $(few "512 1k 2k 4k 64k 2M" "512 4k 2M"); do
	try "files with clusters of $cluster" test_files "$cluster"
done
try "devices of 512 and 4096 bytes a sector" test_devices
finish
