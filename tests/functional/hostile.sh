#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Images with one defect each (tests/lib/hostile.c) in the kernel: refused, or the
# bad cluster alone fails, the image is marked and not written any more. None of
# them makes the kernel complain. HOSTILE_EVERY=1 tests all of them (default: each
# eighth; SEED says which); add -t 3000.
#
# kernels: 6.12 debug kcsan
# vm: -m 1024 -c 2 -d 1G -t 900

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
bad=3			# the cluster with the defect

marked() {
	local features

	features=$(od -A n -t u1 -j 79 -N 1 "$1")
	((features & 2)) || fail "not marked corrupt"
}

# Something of everything; what comes of it is the image's affair.
anything() {
	dd if=/dev/mapper/a of=/dev/null bs=64k iflag=direct || true
	dd if=/dev/zero of=/dev/mapper/a bs=64k oflag=direct || true
	blkdiscard /dev/mapper/a || true
	dd if=/dev/zero of=/dev/mapper/a bs=4k count=4 oflag=direct conv=fsync || true
}

# one FILE VERDICT MARKED CLUSTER WORDS
one() {
	local image=$dir/$1 verdict=$2 mark=$3 cluster=$4 words=$5
	local data=(if=/dev/mapper/a of=/dev/null bs="$cluster" count=1)

	if [[ $verdict == refused ]]; then
		fails dmsetup create a --table "0 40 qcow2 $image"
		[[ ! $words ]] || kernel_says "$words"
		return
	fi
	attach a "$image"
	case $verdict in
	read)
		fails dd "${data[@]}" skip=$bad iflag=direct
		# all hangs on the one entry of the L1 table
		[[ $words == 'L1 table' ]] || dd "${data[@]}" iflag=direct
		;;
	write)
		dd "${data[@]}" skip=$bad iflag=direct
		fails dd if=/dev/zero of=/dev/mapper/a bs=512 count=1 oflag=direct \
			seek=$((bad * cluster / 512))
		;;
	any) anything ;;
	esac
	[[ $verdict == any ]] || kernel_says "$words"
	if [[ $mark == marked ]]; then
		dd if=/dev/zero of=/dev/mapper/a bs=512 count=1 oflag=direct \
			seek=$((bad * cluster / 512)) || true
		[[ $(mode a) == ro ]]
		marked "$image"
	fi
	detach a
}

host_fs ext4 /dev/vda
hostile=$root/build/tests/functional/hostile
SEED=${SEED:-$(date +%s)}
echo "# SEED=$SEED"
RANDOM=$SEED
every=${HOSTILE_EVERY:-$(few 8 16)}
"$hostile" "$dir" "$every" $((RANDOM % every)) >"$tmp/list"
while IFS=$'\t' read -r line words; do
	read -r file verdict mark cluster name <<<"$line"
	try "$name, clusters of $cluster" one "$file" "$verdict" "$mark" \
		"$cluster" "$words"
done <"$tmp/list"
finish
