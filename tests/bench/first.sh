#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Random I/O of 4 KiB on each contender, in one boot; ratios are what counts.
#
# vm: -m 4096 -c 2 -t 3000

set -euo pipefail

usage() {
	cat <<-EOT
	Usage: tests/vm/run -k 6.12 -m 4096 -c 2 -t 3000 -- $0 [RUNS [MSEC]]
	       tests/vm/run -k 6.12 -m 4096 -i -t 3000 -- $0 [RUNS [MSEC]]

	Measures in wall time, or with -i in instructions: the guest's clock then
	counts them. Each contender warms up once; then RUNS rounds (5) of MSEC
	milliseconds (1000) in rotating order. Prints the median of the IOPS, the
	spread (highest - lowest, in per cent of the median), and the ratio to the
	contender that is named. results.csv goes to \$VM_OUT.
	EOT
}

[[ ${1-} != --help ]] || { usage; exit; }
[[ -e /run/vm/command ]] || { usage >&2; exit 1; }
runs=${1:-5}
msec=${2:-1000}
mib=128
tmp=/run/bench
csv=${VM_OUT:-$tmp}/results.csv
mkdir -p "$tmp/fs" /run/lock # qemu-nbd wants the latter

# A disk in memory: what is measured is software.
ram_disk() {
	local knob=/sys/kernel/config/nullb/$1

	mkdir "$knob"
	echo 1 >"$knob/memory_backed"
	echo 0 >"$knob/irqmode"
	echo "$2" >"$knob/size"
	echo 1 >"$knob/power"
	disk=/dev/$1
	[[ -b $disk ]] || disk=/dev/nullb$(<"$knob/index")
}

# The same bytes for all, so that every cluster and block is allocated.
full_image() {
	qemu-img convert -q -f raw -O qcow2 "$tmp/raw" "$1"
}

set_up() {
	modprobe -a null_blk loop nbd ext4
	head -c ${mib}M /dev/urandom >"$tmp/raw"

	ram_disk files $((4 * mib + 256))
	mkfs.ext4 -q "$disk"
	mount "$disk" "$tmp/fs"
	cp "$tmp/raw" "$tmp/fs/raw"
	full_image "$tmp/fs/image"
	full_image "$tmp/fs/nbd"
	device[loop]=$(losetup --find --show --direct-io=on "$tmp/fs/raw")
	dmsetup create file --table "0 $((mib * 2048)) qcow2 $tmp/fs/image"
	device[file]=/dev/mapper/file
	qemu-nbd -c /dev/nbd0 -f qcow2 --aio=native --cache=none "$tmp/fs/nbd"
	device[nbd]=/dev/nbd0

	ram_disk linear $mib
	dd if="$tmp/raw" of="$disk" bs=1M oflag=direct status=none
	dmsetup create linear --table "0 $((mib * 2048)) linear $disk 0"
	device[linear]=/dev/mapper/linear

	ram_disk block $((mib + 8))
	full_image "$tmp/image"
	dd if="$tmp/image" of="$disk" bs=1M oflag=direct status=none
	dmsetup create block --table "0 $((mib * 2048)) qcow2 $disk"
	device[block]=/dev/mapper/block
	rm "$tmp/raw" "$tmp/image"
}

tear_down() {
	qemu-nbd -d /dev/nbd0
	dmsetup remove file
	dmsetup remove linear
	dmsetup remove block
	losetup -d "${device[loop]}"
	umount "$tmp/fs"
}

# iops DEVICE READ-OR-WRITE DEPTH
iops() {
	fio --name=x --filename="$1" --rw="rand$2" --bs=4k --iodepth="$3" \
		--direct=1 --ioengine=libaio --runtime="${msec}ms" --time_based \
		--size=${mib}M --gtod_reduce=1 --output-format=json |
		python3 -c '
import json, sys
job = json.load(sys.stdin)["jobs"][0]
print(round(job[sys.argv[1]]["iops"]))' "$2"
}

declare -A device results
names=(loop file nbd linear block)
label=([0]='raw file, loop, direct I/O' [1]='qcow2 file, dm-qcow2'
	[2]='qcow2 file, qemu-nbd' [3]='raw device, dm-linear'
	[4]='qcow2 device, dm-qcow2')
against=(loop loop loop linear linear)

measure() {
	local run i name key

	for name in "${names[@]}"; do
		iops "${device[$name]}" "$1" "$2" >/dev/null
	done
	for ((run = 0; run < runs; run++)); do
		for ((i = 0; i < ${#names[@]}; i++)); do
			name=${names[(i + run) % ${#names[@]}]}
			key=$name,$1,$2
			results[$key]+="$(iops "${device[$name]}" "$1" "$2") "
			printf '\r%s, depth %s: round %d of %d, %-8s' \
				"$1" "$2" $((run + 1)) "$runs" "$name" >&2
		done
	done
	printf '\r%60s\r' '' >&2
}

# median KEY, spread KEY
median() {
	tr ' ' '\n' <<<"${results[$1]}" | sed '/^$/d' | sort -n |
		awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

spread() {
	tr ' ' '\n' <<<"${results[$1]}" | sed '/^$/d' | sort -n |
		awk '{ v[NR] = $1 } END { m = v[int((NR + 1) / 2)];
			printf "%.1f", m ? 100 * (v[NR] - v[1]) / m : 0 }'
}

report() {
	local i key base

	printf '\nrandom %s, 4 KiB, queue depth %s\n' "$1" "$2"
	printf '  %-28s %9s %8s %s\n' contender IOPS spread ratio
	for i in "${!names[@]}"; do
		key=${names[i]},$1,$2
		base=${against[i]},$1,$2
		printf '  %-28s %9s %7s%% %s of %s\n' "${label[i]}" \
			"$(median "$key")" "$(spread "$key")" \
			"$(awk -v a="$(median "$key")" -v b="$(median "$base")" \
				'BEGIN { printf "%.2f", b ? a / b : 0 }')" \
			"${against[i]}"
		echo "$1,$2,${names[i]},${results[$key]// /,}" >>"$csv"
	done
}

set_up
for depth in 1 32; do
	for kind in read write; do
		measure "$kind" "$depth"
		report "$kind" "$depth"
	done
done
tear_down
