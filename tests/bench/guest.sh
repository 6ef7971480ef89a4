#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The benchmark's side in the guest: bring the contenders up, have fio measure
# them, leave what it says in $VM_OUT. tests/bench/run is the other side.

set -euo pipefail

usage() {
	cat <<-EOT
	Usage: tests/bench/guest.sh [OPTION]... SET WORKLOAD...

	Runs in the guest of tests/vm/run, started by tests/bench/run.
	SET is one of tests/bench/sets/; a workload is called as fio calls it, with
	block size and queue depth, and what else there is to it: randread-4k-32,
	randwrite-4k-1-fsync, randread-4k-32-x2 (two jobs); see special below.

	  -i IMAGES      directory with the images of the set
	  -c CONTENDERS  only these, one word
	  -r RUNS        rounds, after one that is discarded (default: 5)
	  -m MSEC        milliseconds a measurement (default: 1000)
	  -t             threads take turns: see take_turns below
	  -q             no progress

	Leaves in \$VM_OUT: kernel; contenders (name|base|label); fio-*.json,
	whose jobs are called ROUND:WORKLOAD:CONTENDER, round 0 being the warm-up.
	EOT
}

here=$(dirname "$(readlink -f "$0")")
images='' only='' runs=5 msec=1000 turns='' quiet='' anew=''
file_disk=''			# what a set wants in place of memory: /dev/vda
declare -A against=()		# what a set compares with something else
tmp=/run/bench
fs=$tmp/fs

parse_options() {
	local opt

	while getopts 'i:c:r:m:tqh-:' opt; do
		case $opt in
		i) images=$OPTARG ;;
		c) only=$OPTARG ;;
		r) runs=$OPTARG ;;
		m) msec=$OPTARG ;;
		t) turns=yes ;;
		q) quiet=yes ;;
		h | -) usage; exit ;;
		*) usage >&2; exit 2 ;;
		esac
	done
	((OPTIND < $#)) || { usage >&2; exit 2; }
	[[ -e /run/vm/command ]] || { usage >&2; exit 1; }
}

say() {
	[[ $quiet ]] || echo "$*"
}

up() {
	local name

	# Few inodes and no lazy work, which would go on in the background.
	if [[ $file_disk ]]; then
		slice files 0 "$fs_mib"
	else
		ram_disk files "$fs_mib"
	fi
	mkfs.ext4 -q -F -N 256 -J size=16 -E lazy_itable_init=0,nodiscard \
		"${disk[files]}" "${fs_mib}M"
	mkdir -p "$fs"
	mount "${disk[files]}" "$fs"
	for name in "${contenders[@]}"; do
		say "setting up $name"
		"up_$name"
	done
	sync
}

down() {
	local name

	for name in "${contenders[@]}"; do
		"down_$name"
	done
	umount "$fs"
	if [[ $file_disk ]]; then
		dmsetup remove files
	else
		no_ram_disk files
	fi
}

# special MORE: what the end of a workload's name says, a word each.
special() {
	local word

	for word in ${1//-/ }; do
		case $word in
		fsync) echo fsync=1 ;;
		psync) echo ioengine=psync ;;
		batch) echo iodepth_batch_submit=16
			echo iodepth_batch_complete_min=16 ;;
		reads[0-9]*) echo "rwmixread=${word#reads}" ;;
		x[0-9]*) echo "numjobs=${word#x}" ;;
		*) echo "guest.sh: what is '$word' of a workload?" >&2
			exit 2 ;;
		esac
	done
}

# What fio is to do in the given rounds: in each, one workload after the other,
# and for each workload one contender after the other, in rotating order. The
# warm-up takes half the time. Writing ends with a flush, whose time counts. The
# buffers get huge pages, or an I/O would have more pieces in one job than in the
# next.
job_file() {
	local round workload i name n=${#contenders[@]}
	local rw bs depth more all_msec=$msec msec

	printf '%s\n' '[global]' ioengine=libaio direct=1 thread=1 stonewall \
		gtod_reduce=1 norandommap=1 randseed=1 end_fsync=1 \
		iomem_align=2M group_reporting=1
	for round; do
		msec=$((round ? all_msec : all_msec / 2))
		for workload in "${workloads[@]}"; do
			IFS=- read -r rw bs depth more <<<"$workload"
			for ((i = 0; i < n; i++)); do
				name=${contenders[(i + round) % n]}
				printf '%s\n' "[$round:$workload:$name]" \
					"filename=${device[$name]}" "rw=$rw" \
					"bs=$bs" "iodepth=$depth"
				special "$more"
				job "$workload"
			done
		done
	done
}

# fio draws a letter for each job, followed by a number if it stands for several:
# "_(5),R(1),P(18)". The underscore is a job that has ended.
show_progress() {
	local all=$1 line letter count ended

	while IFS= read -r -d $'\r' line; do
		[[ $line =~ ': ['([^]]*)']' ]] || continue
		line=${BASH_REMATCH[1]//[!_0-9,]/}
		ended=0
		while IFS=_ read -r -d , letter count; do
			[[ ! $letter ]] || continue
			ended=$((ended + ${count:-1}))
		done <<<"$line,"
		say "$ended of $all measurements"
	done
}

# rounds FIRST LAST: in one process, because fio takes seconds to start here.
rounds() {
	local eta=always

	[[ ! $quiet ]] || eta=never
	# shellcheck disable=SC2046 # one word a round
	job_file $(seq "$1" "$2") >"$tmp/jobs"
	fio --eta=$eta --disk_util=0 --output-format=json \
		--output="$VM_OUT/fio-$1.json" "$tmp/jobs" |
		show_progress $((($2 - $1 + 1) * ${#workloads[@]} *
			${#contenders[@]}))
}

# On one processor a thread that is woken may or may not push the one aside that
# woke it, and the pattern that comes of this decides how much work an I/O is: it
# varies with the kernel and the least change of the code. So no thread is
# pushed aside; each runs until it waits or its slice ends.
take_turns() {
	echo NO_WAKEUP_PREEMPTION >/sys/kernel/debug/sched/features
}

parse_options "$@"
shift $((OPTIND - 1))
# shellcheck source=tests/bench/sets/allocated.sh
source "$here/sets/$1.sh"
shift
workloads=("$@")
[[ ! $only ]] || read -ra contenders <<<"$only"
# shellcheck source=tests/bench/contenders.sh
source "$here/contenders.sh"
for name in "${!against[@]}"; do
	base[$name]=${against[$name]}
done
fs_mib=$((${#contenders[@]} * (mib + mib / 8 + 16) + 256))
mkdir -p "$tmp"
[[ ! $turns ]] || take_turns
modprobe -a null_blk loop ext4
[[ " ${contenders[*]} " != *nbd\ * ]] || modprobe nbd
# with its cipher: a clock that counts instructions does not wait for modules, and
# whoever waits for a cipher loses patience
[[ ! " ${contenders[*]} " =~ \ (crypt|inline)\  ]] ||
	modprobe -a dm-crypt xts aesni-intel

if [[ $anew ]]; then
	for ((round = 0; round <= runs; round++)); do
		say "round $round of $runs"
		up
		rounds $round $round
		down
	done
else
	up
	rounds 0 "$runs"
	down
fi
uname -r >"$VM_OUT/kernel"
for name in "${contenders[@]}"; do
	echo "$name|${base[$name]}|${label[$name]}"
done >"$VM_OUT/contenders"
