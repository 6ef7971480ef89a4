# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the suites in this folder share; sourced by them, in the guest that
# tests/vm/run starts. A suite is functions, one a test, that are given to
# "try"; "finish" ends it. A test fails when a command in it fails (set -e).

set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
diffio=$root/build/tests/functional/diffio
suite=$(basename "$0" .sh)
tmp=/run/test		# tmpfs: models and what a test notes
mnt=/run/mnt		# a folder for each filesystem
count=0 failed=0

if [[ ${1-} == --help ]]; then
	cat <<-EOT
	Usage: tests/vm/run -k KERNEL $(sed -n 's/^# vm: *//p' "$0") -- $0 [PATTERN]

	Runs the tests whose names match PATTERN, a regular expression, or all,
	and prints TAP. Only for a throw-away guest. SEED=N repeats the random
	numbers that a failure has printed; V=1 shows the output of each test.
	EOT
	exit
fi
if [[ ! -e /run/vm/command ]]; then
	echo "$0: writes to /dev/vda; run it with tests/vm/run, see --help" >&2
	exit 1
fi
pattern=${1-}
mkdir -p "$tmp" "$mnt"
log='' log_fd='' log_reader=''

# --- tests -------------------------------------------------------------------

# try NAME COMMAND...: one test, in a shell of its own.
try() {
	local name=$1 status start=${EPOCHREALTIME/./}

	shift
	[[ $name =~ $pattern ]] || return 0
	count=$((count + 1))
	read_log
	echo "$suite: test: $name" >/dev/kmsg
	set +e
	(
		set -e
		"$@"
	) >"$tmp/log" 2>&1
	status=$?
	set -e
	clean_up || true
	if ((status)); then
		failed=$((failed + 1))
		echo "not ok $name"
		sed 's/^/# /' "$tmp/log"
		echo "# exit status $status; kernel log:"
		dmesg --notime | awk -v mark="$suite: test: $name" '
			$0 == mark { n = 0 } { line[n++] = $0 }
			END { for (i = 1; i < n; i++) print "# " line[i] }' |
			tail -n 30
	else
		echo "ok $name"
		[[ ! ${V-} ]] || sed 's/^/# /' "$tmp/log"
	fi
	echo "# $(((${EPOCHREALTIME/./} - start) / 1000)) ms"
}

# The end of a suite.
finish() {
	kill "$log_reader"
	echo "1..$count"
	((failed == 0))
}

fail() {
	echo "$*"
	return 1
}

# fails COMMAND...: succeeds if the command does not.
fails() {
	local status=0

	"$@" || status=$?
	((status)) || fail "should have failed: $*"
	((status < 124)) || fail "exit status $status: $*"
}

# few N M: how much of something to do: N, or M on a kernel that watches itself,
# which is slow, and where somebody asks for it with BRIEF=1.
few() {
	[[ ${VM_SLOW-}${BRIEF-} ]] && echo "$2" || echo "$1"
}

# --- the kernel's log --------------------------------------------------------
#
# Programs take long to start where these suites run, so what the kernel says is
# collected by one that runs all the time.

start_log() {
	: >"$tmp/kmsg"
	cat /dev/kmsg >>"$tmp/kmsg" &
	log_reader=$!
	exec {log_fd}<"$tmp/kmsg"
	read_log
}

# Sets $log to what the kernel has said since the last time. A line may be read
# while it is being written.
read_log() {
	local line='' more end="$suite: $BASHPID $RANDOM" deadline=$((SECONDS + 30))

	log=''
	echo "$end" >/dev/kmsg
	while ((SECONDS < deadline)); do
		if ! IFS= read -r -u "$log_fd" more; then
			line+=$more
			continue
		fi
		line+=$more
		[[ $line != *";$end" ]] || return 0
		log+=${line#*;}$'\n'
		line=''
	done
	fail "the kernel's log has stopped; waited for \"$end\", have \"$line\" after" \
		"$(tail -n 3 "$tmp/kmsg"); reader: $(ps -o pid=,stat=,wchan=,args= "$log_reader")"
}

# says REGEX: whatever its case.
says() {
	shopt -s nocasematch
	[[ $log =~ $1 ]] || fail "the kernel did not say \"$1\" but: $log"
	shopt -u nocasematch
}

# kernel_says REGEX: since the last time, or since the test began.
kernel_says() {
	read_log
	says "$1"
}

# until_ok SECONDS COMMAND...: wait for something that others do.
until_ok() {
	local deadline=$((SECONDS + $1))

	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail "never succeeded: $*"
		sleep 0.1
	done
}

# background COMMAND...: $! is its process; ended with the test.
background() {
	"$@" &
	echo $! >>"$tmp/background"
}

# Whatever a test has left goes, so that the next one can begin: background
# processes, then what is mounted on mapped devices, then those, which may
# stand on each other.
clean_up() {
	local name device where _

	if [[ -e $tmp/background ]]; then
		xargs -r kill <"$tmp/background"
		rm "$tmp/background"
	fi
	for _ in 1 2 3; do
		compgen -G '/sys/block/dm-*' || break
		while read -r device where _; do
			[[ $device != /dev/mapper/* ]] || umount "$where"
		done < <(tac /proc/mounts)
		for name in $(dmsetup ls | awk '{ print $1 }'); do
			dmsetup resume "$name"
			dmsetup remove --retry "$name"
		done
	done
	rm -rf "${tmp:?}"/model* "$tmp"/scratch
} &>/dev/null

# --- filesystems and images --------------------------------------------------

# host_fs TYPE DEVICE: an empty filesystem for image files, on $mnt/TYPE.
host_fs() {
	local type=$1 device=$2 options=(-q)

	case $type in
	ext4) options+=(-F -E nodiscard) ;;
	xfs) options+=(-f -K) ;;
	esac
	mkdir -p "$mnt/$type"
	modprobe "$type"
	"mkfs.$type" "${options[@]}" "$device"
	mount "$device" "$mnt/$type"
}

# create IMAGE SIZE [OPTION]...: the options are those of qemu-img -o. QEMU
# leaves what is on a device, and reads of it what it finds there.
create() {
	local image=$1 size=$2

	shift 2
	[[ -b $image ]] || rm -f "$image"
	qemu-img create -q -f qcow2 ${1+-o "$(IFS=,; echo "$*")"} "$image" "$size"
}

# The virtual size in sectors; qemu-img takes forty times as long to say it.
sectors() {
	echo $(($(od -A n -v -t u8 --endian=big -j 24 -N 8 "$1") / 512))
}

# table IMAGE [OPTION]...: the line that attaches all of an image.
table() {
	local image=$1 path=$1 c

	shift
	for c in \\ ' ' $'\t' '#'; do
		path=${path//"$c"/\\$(printf %03o "'$c")}
	done
	echo "0 $(sectors "$image") qcow2 $path${1+ $# $*}"
}

# attach NAME IMAGE [OPTION]...
attach() {
	local name=$1

	shift
	dmsetup create "$name" --table "$(table "$@")"
}

detach() {
	dmsetup remove "$1"
}

# run_io NAME [OPTION]...: differential I/O against the model of that device.
run_io() {
	local name=$1

	shift
	"$diffio" ${SEED+-s "$SEED"} "$@" "/dev/mapper/$name" "$tmp/model.$name"
}

# model NAME SIZE: a new model.
model() {
	rm -f "$tmp/model.$1"
	truncate -s "$2" "$tmp/model.$1"
}

# good IMAGE: neither errors nor leaks.
good() {
	local status=0 words

	words=$(qemu-img check -f qcow2 "$1" 2>&1) || status=$?
	((status == 0)) || fail "${words:0:2000}"$'\n'"qemu-img check $1: $status"
}

# same IMAGE MODEL: what QEMU reads is what the model has.
same() {
	qemu-img compare -f qcow2 -F raw "$1" "$2" ||
		fail "$1 differs from $2"
}

# done_with NAME IMAGE: the end of every test that has written.
done_with() {
	detach "$1"
	good "$2"
	same "$2" "$tmp/model.$1"
}

# start_io SECONDS: I/O on the device a, until end_io.
start_io() {
	run_io a -j 4 -t "$1" >"$tmp/io.log" 2>&1 &
	io=$!
	echo $io >>"$tmp/background"
	until_ok 30 is_open
}

is_open() {
	[[ $(dmsetup info -c --noheadings -o open a) != 0 ]]
}

end_io() {
	wait "$io" || fail "$(cat "$tmp/io.log")"
	cat "$tmp/io.log"
}

# field NAME NUMBER: a field of the target's status, counted from 1.
field() {
	dmsetup status "$1" | awk -v n="$2" '{ print $(n + 3) }'
}

mode() {
	field "$1" 1
}

# poke FILE OFFSET HEX: overwrite bytes.
poke() {
	local file=$1 offset=$2 hex=$3 bytes=''

	for (( ; ${#hex}; )); do
		bytes+=\\x${hex:0:2}
		hex=${hex:2}
	done
	printf '%b' "$bytes" |
		dd of="$file" bs=1 seek=$((offset)) conv=notrunc status=none
}

start_log
