#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The suite of the guest: does tests/vm/run tell what happened in there?
# Runs on the host; each test is a boot, of some ten seconds on a stock kernel.

set -euo pipefail

if [[ ${1-} == --help ]]; then
	cat <<-EOF
	Usage: tests/vm/selftest.sh [debug | kcsan]

	Prints TAP. With an argument, only what those kernels have to find.
	EOF
	exit
fi

cd "$(dirname "$(readlink -f "$0")")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# shellcheck source=tests/lib/ok.sh
source ../lib/ok.sh

# guest [OPTION]... -- COMMAND...: leaves $status, $tmp/stdout and $tmp/stderr.
guest() {
	status=0
	./run -c 1 -t 120 "$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
	# which happens, and is not what is tested
	sed -i '/did not boot: once more/d' "$tmp/stderr"
}

is() {
	[[ $1 == "$2" ]]
}

says() {
	grep -qE "$1" "$tmp/$2"
}

between() {
	(($1 <= $2 && $2 <= $3))
}

# A boot tells many things; $kernel is the series.
test_command() {
	local kernel=$1

	head -c 100000 /dev/urandom >"$tmp/random"
	# shellcheck disable=SC2016 # for the guest
	guest -k "$kernel" -c 2 -o "$tmp/out-$kernel" \
		-d 64M -d 3G,bs=4096 -d 1G,iops=50 -- bash -c '
		echo "to stderr" >/dev/stderr
		pwd
		uname -r
		nproc
		cd /sys/block
		cat vd?/size vd?/queue/logical_block_size | xargs
		dd if=/dev/vdc of=/dev/null bs=4k count=100 iflag=direct 2>&1 |
			sed -nE "s/.*, ([0-9]+)\..* s,.*/seconds \1/p"
		modprobe -a null_blk loop xfs && ls -d /sys/module/xfs
		dmsetup targets | grep qcow2
		touch /etc/ours && ls /etc/ours
		cp "$1/random" "$VM_OUT/a b"
		exit 7' - "$tmp"

	echo "$kernel = $(sed -n 2p "$tmp/stdout")" >>"$tmp/releases"

	ok "$kernel: exit status" is "$status" 7
	ok "$kernel: working directory" says "^$PWD\$" stdout
	ok "$kernel: kernel" says "^${kernel//./\\.}\\." stdout
	ok "$kernel: stderr apart" is "$(cat "$tmp/stderr")" "to stderr"
	ok "$kernel: no CR in the output" is "$(tr -dc '\r' <"$tmp/stdout")" ''
	ok "$kernel: processors" says '^2$' stdout
	ok "$kernel: disks and block sizes" \
		says '^131072 6291456 2097152 512 4096 512$' stdout
	ok "$kernel: iops" between 1 "$(sed -n 's/^seconds //p' "$tmp/stdout")" 4
	ok "$kernel: modprobe" says '^/sys/module/xfs$' stdout
	ok "$kernel: the target is there" says '^qcow2 ' stdout
	ok "$kernel: root is writable" says '^/etc/ours$' stdout
	ok "$kernel: and not the host's" test ! -e /etc/ours
	ok "$kernel: VM_OUT comes back" cmp "$tmp/random" "$tmp/out-$kernel/a b"
}

# Guest time counts instructions, so the same work takes the same time.
test_icount() {
	# shellcheck disable=SC2016 # for the guest
	guest -i -- bash -c '
		nproc
		for i in 1 2; do
			start=${EPOCHREALTIME/./}
			for ((n = 0; n < 30000; n++)); do :; done
			echo took $((${EPOCHREALTIME/./} - start))
		done'
	ok "-i: exit status" is "$status" 0
	ok "-i: one processor" is "$(head -n 1 "$tmp/stdout")" 1
	# shellcheck disable=SC2016 # awk's
	ok "-i: repeats within 5 %" awk '/took/ { t[n++] = $2 }
		END { d = t[1] / t[0]; exit !(n == 2 && d > 0.95 && d < 1.05) }' \
		"$tmp/stdout"
}

test_time_limit() {
	# shellcheck disable=SC2016 # for the guest
	guest -t 60 -o "$tmp/out-late" -- \
		bash -c 'echo early >$VM_OUT/file; sync; echo out; sleep 120; echo late'
	ok "time limit: 124" is "$status" 124
	ok "time limit: output until then" is "$(cat "$tmp/stdout")" out
	ok "time limit: VM_OUT comes back" is "$(cat "$tmp/out-late/file")" early
}

test_panic() {
	local start=$SECONDS

	# what is still in the guest's pipe is lost
	guest -- bash -c 'echo before; sleep 2; echo c >/proc/sysrq-trigger; sleep 100'
	ok "panic: 125" is "$status" 125
	ok "panic: at once" between 0 $((SECONDS - start)) 60
	ok "panic: the kernel's words" says 'sysrq triggered crash' stderr
	ok "panic: output until then" is "$(cat "$tmp/stdout")" before
}

# make_trouble KERNEL WHAT...: what a module does wrong that only the kernel
# tells.
make_trouble() {
	local kernel=$1 kdir cpus=1

	shift
	[[ $kernel != kcsan ]] || cpus=2	# who race
	case $kernel in
	debug | kcsan) kdir=$(./build-kernel "$kernel") ;;
	*) kdir=/lib/modules/$(sed -n "s/^$kernel = //p" "$tmp/releases")/build ;;
	esac
	rm -rf "$tmp/trouble"
	cp -r trouble "$tmp/trouble"
	make -s -C "$kdir" M="$tmp/trouble" modules \
		CONFIG_DEBUG_INFO_BTF_MODULES= >&2
	# shellcheck disable=SC2016 # for the guest
	guest -k "$kernel" -c $cpus -- sh -c '
		cd "$1"
		shift
		for what; do
			[ ! -e /sys/module/trouble ] || rmmod trouble
			insmod trouble.ko make=$what
			sleep 1
		done' - "$tmp/trouble" "$@"
	ok "$kernel: $*: 125" is "$status" 125
}

test_trouble() {
	make_trouble "$1" "$2"
	ok "$1: $2: the kernel's words" says "$3" stderr
}

# What does not end the guest.
test_reports() {
	make_trouble debug sleep inversion lost
	ok "debug: sleeping while atomic" \
		says 'BUG: sleeping function called from invalid' stderr
	ok "debug: lock inversion" says 'possible circular locking' stderr
	ok "debug: lost memory" says 'unreferenced object' stderr
	ok "debug: who lost it" says 'make_lost.*\[trouble\]' stderr
}

test_gcov() {
	guest -k debug -g -o "$tmp/out-gcov" -- true
	ok "-g: exit status" is "$status" 0
	ok "-g: counters" test -s "$tmp/out-gcov/gcov/dm-qcow2/target.gcda"
}

test_debug() {
	test_trouble debug shift 'UBSAN: shift-out-of-bounds'
	test_trouble debug list 'list_del corruption'
	test_gcov
}

test_kcsan() {
	test_trouble kcsan race 'BUG: KCSAN: data-race in .*race'
	guest -k kcsan -c 2 -- true
	ok "kcsan: exit status" is "$status" 0
	ok "kcsan: races of others do not count" is "$(cat "$tmp/stderr")" ''
}

test_device_left() {
	qemu-img create -q -f qcow2 "$tmp/image" 1M
	guest -- dmsetup create forgotten \
		--table "0 2048 qcow2 $tmp/image 1 read_only"
	ok "device left: 125" is "$status" 125
	ok "device left: its name" says 'devices left: forgotten' stderr
}

case ${1-} in
debug) test_debug ;;
kcsan) test_kcsan ;;
*)
	for kernel in 6.12 6.1; do
		test_command $kernel
	done
	test_icount
	test_time_limit
	test_panic
	test_trouble 6.1 warning 'WARNING: .* make_warning'
	test_trouble 6.12 oops 'Kernel panic'
	test_trouble 6.12 leak 'Objects remaining|still has objects'
	test_device_left
	test_trouble debug use-after-free 'BUG: KASAN: (slab-)?use-after-free'
	test_reports ;;
esac
echo "1..$count"
((failed == 0))
