#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The suite of qcow2setup create: each image is held against the one that
# qemu-img makes with the same options, checked, read and written by QEMU; what
# is refused leaves everything as it was; what fails or is ended leaves nothing.

set -euo pipefail

if [[ ${1-} == --help ]]; then
	cat <<-EOF
	Usage: tests/tools/create.sh

	Test \$QCOW2SETUP (default: build/qcow2setup). Prints TAP.
	EOF
	exit
fi

man=$(dirname "$(readlink -f "$0")")/../../Documentation/qcow2setup.8
man=$(readlink -f "$man")
# shellcheck source=tests/lib/tools.sh
. "$(dirname "$(readlink -f "$0")")/../lib/tools.sh"
child='' loop=''

clean_up_more() {
	[[ ! $loop ]] || losetup -d "$loop" || true
	[[ ! $child ]] || kill "$child" 2>/dev/null || true
}

# Where the user may write.
mkdir w
chmod 777 w
cd w

# fresh: an empty directory
fresh() {
	rm -rf ./*
}

# made STATUS: nothing is said
made() {
	((status == 0)) && [[ ! -s ../stdout && ! -s ../stderr ]]
}

absent() {
	[[ ! -e $1 && ! -L $1 ]]
}

# What QEMU says of an image, without what two images may differ in.
facts() {
	qemu-img info --output=json "$1" >"$1.json"
	json "$1.json" '{k: v for k, v in o.items() if k not in
		("filename", "actual-size")}'
}

check() {
	qemu-img check -q -f qcow2 "$1"
}

# Zeros all over; then written here and there, read back, checked.
works() {
	local size

	size=$(json "$1.json" 'o["virtual-size"]')
	check "$1" && truncate -s "$size" zeros.raw &&
		qemu-img compare -q -f qcow2 -F raw "$1" zeros.raw &&
		silent qemu-io -f qcow2 -c 'write -P 7 0 64k' \
			-c 'write -P 9 3000k 4k' -c 'discard 3000k 2k' "$1" &&
		silent qemu-io -f qcow2 -c 'read -P 7 0 64k' \
			-c 'read -P 0 64k 2936k' -c 'read -P 9 3002k 2k' \
			-c 'read -P 0 3004k 1000k' "$1" &&
		check "$1"
}

# like_qemu OPTIONS QEMU-OPTIONS: of an image of 10 MiB
like_qemu() {
	local words=()

	fresh
	read -ra words <<<"$1"
	qemu-img create -q -f qcow2 ${2:+-o "$2"} b.qcow2 10M
	[[ $1 != *data-file* ]] || mv x.data qemu.data
	run create "${words[@]}" a.qcow2 10M
	ok "create $1" made
	[[ ! -e x.data ]] || chmod 666 x.data
	ok "is as QEMU makes it: $1" is "$(facts a.qcow2)" "$(facts b.qcow2)"
	ok "works: $1" works a.qcow2
}

test_like_qemu() {
	like_qemu '' ''
	like_qemu '--cluster-size 512' cluster_size=512
	like_qemu '--cluster-size 2M --refcount-bits 1' \
		cluster_size=2M,refcount_bits=1
	like_qemu '--refcount-bits 64 --lazy-refcounts' \
		refcount_bits=64,lazy_refcounts=on
	like_qemu '--compression zstd' compression_type=zstd
	like_qemu '--extended-l2 --cluster-size 16k' extended_l2=on,cluster_size=16k
	like_qemu '--preallocation off' preallocation=off
	like_qemu '--preallocation metadata' preallocation=metadata
	like_qemu '--preallocation metadata --cluster-size 512 --refcount-bits 64' \
		preallocation=metadata,cluster_size=512,refcount_bits=64
	like_qemu '--preallocation falloc' preallocation=falloc
	like_qemu '--preallocation full' preallocation=full
	like_qemu '--preallocation metadata --extended-l2' \
		preallocation=metadata,extended_l2=on
	like_qemu '--preallocation full --extended-l2' \
		preallocation=full,extended_l2=on
	like_qemu '--data-file x.data' data_file=x.data
	like_qemu '--data-file x.data --data-file-raw' \
		data_file=x.data,data_file_raw=on
	like_qemu '--data-file x.data --preallocation falloc' \
		data_file=x.data,preallocation=falloc
	like_qemu '--data-file x.data --data-file-raw --extended-l2' \
		data_file=x.data,data_file_raw=on,extended_l2=on
}

# Bytes of a file, and whether they have space of their own.
allocated() {
	(($(stat -c '%b * 512' "$1") >= $2))
}

test_space() {
	local big=1000000

	fresh
	run create --preallocation metadata m.qcow2 10M
	ok "metadata: the end is there" test "$(stat -c %s m.qcow2)" -gt 10485760
	ok "metadata: takes no space" is "$(allocated m.qcow2 $big; echo $?)" 1
	for mode in falloc full; do
		run create --preallocation $mode $mode.qcow2 10M
		ok "$mode: takes the space" allocated $mode.qcow2 10485760
		run create --preallocation $mode --data-file d.$mode \
			d.qcow2 10M
		ok "$mode: takes the space, in the data file" \
			allocated d.$mode 10485760
		ok "$mode: and not in the image" \
			is "$(allocated d.qcow2 $big; echo $?)" 1
		rm d.qcow2
	done
	run create thin.qcow2 1P
	ok "1 PiB" both made '' check thin.qcow2
}

# size_is TEXT BYTES
size_is() {
	rm -f s.qcow2
	run create s.qcow2 "$1"
	ok "size $1" is "$(qemu-img info --output=json s.qcow2 >s.json &&
		json s.json 'o["virtual-size"]')" "$2"
}

test_sizes() {
	fresh
	size_is 0 0
	size_is 1 512
	size_is 1000 1024
	size_is 3k 3072
	size_is 3K 3072
	size_is 5M 5242880
	size_is 2G 2147483648
	size_is 1T 1099511627776
	rm s.qcow2
	for size in x 1.5G 1Q 9223372036854775808 99999999999999999999 ''; do
		run create s.qcow2 "$size"
		ok "size '$size'" fails 1 "number of bytes"
	done
	run create s.qcow2
	ok "no size" fails 1 'How large?'
	ok "nothing was made" absent s.qcow2
	run create --verbose s.qcow2 1000
	ok "says that it rounds up" grep -q 'rounded up to 1024' ../stderr
}

# refuses TEXT OPTION...: and makes no file
refuses() {
	local text=$1

	shift
	run create "$@"
	ok "refused: ${*//$'\n'/ }" fails 1 "$text"
	ok "and no file: ${*//$'\n'/ }" absent no.qcow2
}

test_refused() {
	local n long=/x

	fresh
	qemu-img create -q -f qcow2 base.qcow2 1M
	for n in 3k 256 4M 1000; do
		refuses 'a power of two from 512' --cluster-size $n no.qcow2 1M
	done
	refuses 'number above 0' --cluster-size 0 no.qcow2 1M
	for n in 3 128; do
		refuses '32 or 64 bits' --refcount-bits $n no.qcow2 1M
	done
	refuses '16 KiB or more' --extended-l2 --cluster-size 8k no.qcow2 1M
	refuses "zlib or zstd, not 'lzma'" --compression lzma no.qcow2 1M
	refuses "off, metadata, falloc or full, not 'fast'" \
		--preallocation fast no.qcow2 1M
	refuses 'larger clusters' no.qcow2 3P
	refuses 'larger clusters' --cluster-size 512 no.qcow2 129G
	refuses 'hide the backing file' --backing base.qcow2 \
		--backing-format qcow2 --preallocation metadata no.qcow2
	refuses 'no data file is given' --data-file-raw no.qcow2 1M
	refuses 'no backing file' --data-file d --data-file-raw \
		--backing base.qcow2 --backing-format qcow2 no.qcow2
	refuses 'Give --backing-format' --backing base.qcow2 no.qcow2 1M
	refuses 'no backing file' --backing-format raw no.qcow2 1M
	refuses "not 'vmdk'" --backing base.qcow2 --backing-format vmdk no.qcow2
	refuses "which is a protocol" --backing nbd:host --backing-format raw \
		no.qcow2 1M
	refuses "a description for QEMU" --backing 'json:{}' \
		--backing-format raw no.qcow2 1M
	refuses "name is empty" --backing '' --backing-format raw no.qcow2 1M
	refuses "which is a protocol" --data-file nbd:host no.qcow2 1M
	while ((${#long} < 1100)); do
		long+=/x
	done
	refuses "at most 1023" --data-file "$long" no.qcow2 1M
	refuses "do not fit" --cluster-size 512 --data-file "${long::400}" \
		no.qcow2 1M
	run open --backing x no.qcow2 y
	ok "open takes no --backing" fails 1 "does not take --backing"
	run table --cluster-size 512 base.qcow2
	ok "table takes no --cluster-size" fails 1 "does not take --cluster-size"
}

test_backing() {
	fresh
	mkdir sub
	chmod 777 sub
	qemu-img create -q -f qcow2 sub/base.qcow2 6M
	silent qemu-io -f qcow2 -c 'write -P 5 1M 1M' sub/base.qcow2
	head -c 1000 /dev/urandom >odd.raw
	chmod 666 odd.raw sub/base.qcow2
	run create --backing sub/base.qcow2 --backing-format qcow2 a.qcow2
	ok "create over a qcow2 image" made
	qemu-img create -q -f qcow2 -b sub/base.qcow2 -F qcow2 b.qcow2
	ok "is as QEMU makes it" is "$(facts a.qcow2)" "$(facts b.qcow2)"
	ok "reads as its base" qemu-img compare -q a.qcow2 sub/base.qcow2
	silent qemu-io -f qcow2 -c 'write -P 6 1537k 1k' a.qcow2
	ok "copies it" silent qemu-io -f qcow2 -c 'read -P 5 1M 513k' \
		-c 'read -P 6 1537k 1k' -c 'read -P 5 1538k 510k' a.qcow2
	ok "check" check a.qcow2
	rm a.qcow2
	run_in / create --backing base.qcow2 --backing-format qcow2 \
		"$PWD/sub/top.qcow2" 20M
	ok "a relative name begins at the image" made
	ok "and stays relative" is "$(facts sub/top.qcow2 | grep -o "'backing-filename': '[^']*'")" \
		"'backing-filename': 'base.qcow2'"
	ok "reads as its base, and zeros" qemu-img compare -q sub/top.qcow2 sub/base.qcow2
	run create --backing odd.raw --backing-format raw a.qcow2
	ok "create over a raw file" made
	ok "its size is in whole sectors" qemu-img compare -q -f qcow2 -F raw a.qcow2 odd.raw
	run info --chain a.qcow2
	ok "qcow2setup, too, finds it" says "$PWD/odd.raw: raw, 1000 bytes"
	rm a.qcow2
	run create --backing sub/base.qcow2 --backing-format qcow2 --extended-l2 \
		--preallocation metadata a.qcow2
	ok "preallocated, with extended L2 entries" made
	ok "shows its base" qemu-img compare -q a.qcow2 sub/base.qcow2
	rm a.qcow2
	run create --backing nothing --backing-format raw a.qcow2 1M
	ok "no base" fails 4 'nothing does not exist'
	run create --backing odd.raw --backing-format qcow2 a.qcow2 1M
	ok "no image as base" fails 4 'not a qcow2 image'
	ok "makes no file" absent a.qcow2
	run create --force --backing odd.raw --backing-format raw odd.raw
	ok "not over its own base" fails 1 'one of the files below'
	run create --force --backing top.qcow2 --backing-format qcow2 \
		sub/base.qcow2
	ok "nor over one below" fails 1 'one of the files below'
	ok "which is as it was" check sub/base.qcow2
}

test_existing() {
	fresh
	qemu-img create -q -f qcow2 old.qcow2 1M
	head -c 5000 /dev/urandom >old.data
	cp old.qcow2 copy.qcow2
	cp old.data copy.data
	chmod 666 old.*
	run create old.qcow2 2M
	ok "an image that exists" fails 5 '--force'
	run create --data-file old.data a.qcow2 2M
	ok "a data file that exists" fails 5 '--force'
	ok "makes no image" absent a.qcow2
	run create --force --cluster-size 3k old.qcow2 2M
	ok "wrong options and --force" fails 1 'power of two'
	run create --force --data-file . old.qcow2 2M
	ok "a directory as data file and --force" fails 4 'is a directory'
	run create --force --data-file old.qcow2 old.qcow2 2M
	ok "one file as both" fails 1 'its own data file'
	ok "the image is as it was" cmp old.qcow2 copy.qcow2
	ok "the data is as it was" cmp old.data copy.data
	run create --force --data-file old.data --data-file-raw old.qcow2 2M
	ok "--force" made
	facts old.qcow2 >/dev/null
	ok "nothing is left of them" check old.qcow2
	ok "zeros" qemu-img compare -q -f raw -F raw old.data /dev/null
	run create nowhere/a.qcow2 1M
	ok "no directory" fails 4 'No such file or directory'
	mkfifo fifo
	run create --force fifo 1M
	ok "a FIFO" fails 4 'is a FIFO'
	if ((${#as_user[@]})); then
		run create ../a.qcow2 1M
		ok "no permission" fails 2 'No permission'
	fi
}

test_locks() {
	fresh
	qemu-img create -q -f qcow2 a.qcow2 1M
	chmod 666 a.qcow2
	cp a.qcow2 copy.qcow2
	qemu-nbd -f qcow2 -k "$tmp/socket" -t a.qcow2 &
	child=$!
	for _ in {1..100}; do
		[[ ! -S $tmp/socket ]] || break
		sleep 0.1
	done
	run create --force a.qcow2 2M
	ok "an image in use" fails 5 'is in use by QEMU'
	run create --backing a.qcow2 --backing-format qcow2 b.qcow2
	ok "a base that somebody writes" fails 5 'is in use by QEMU'
	kill $child
	wait $child 2>/dev/null || true
	child=''
	ok "is as it was" cmp a.qcow2 copy.qcow2
	ok "no overlay" absent b.qcow2
}

# on_device MODE: an image, where there was something else
on_device() {
	head -c 20M /dev/urandom >"$loop"
	run create --force --preallocation "$1" "$loop" 10M
	facts "$loop" >/dev/null
	ok "on a device, $1: works" works "$loop"
}

# on_data_device OPTION...: a data file where there was something else
on_data_device() {
	head -c 20M /dev/urandom >"$loop"
	run create --force --data-file "$loop" "$@" a.qcow2 10M
	facts a.qcow2 >/dev/null
	ok "a device as data file, $*: works" works a.qcow2
}

test_devices() {
	local as_user=()

	fresh
	truncate -s 20M disk
	if ((UID)) || ! loop=$(losetup -f --show disk 2>/dev/null); then
		count=$((count + 1))
		echo "ok on a block device # SKIP no loop device"
		return
	fi
	head -c 20M /dev/urandom >"$loop"
	cp disk old
	run create "$loop" 10M
	ok "a device without --force" fails 5 '--force'
	run create --force --preallocation metadata "$loop" 20M
	ok "a device that is too small" fails 4 'has 20971520 bytes and needs'
	ok "is as it was" cmp "$loop" old
	on_device off
	on_device metadata
	on_device falloc
	on_device full
	ok "keeps its size" is "$(blockdev --getsize64 "$loop")" 20971520
	on_data_device
	on_data_device --preallocation metadata
	on_data_device --data-file-raw
	qemu-img convert -O raw a.qcow2 a.raw
	ok "raw data" cmp -n 10485760 "$loop" a.raw
	# whoever claims a device has it for himself
	mkfs.ext4 -q -F "$loop"
	mkdir mnt
	mount "$loop" mnt
	run create --force "$loop" 10M
	umount mnt
	ok "a mounted device" fails 5 'is in use: it is mounted'
	losetup -d "$loop"
	loop=''
}

# Begins to write a large image, as the user, and waits until it is under way.
begin() {
	fresh
	"${as_user[@]}" "$tmp/qcow2setup" create --preallocation full "$@" \
		>../stdout 2>../stderr </dev/null &
	child=$!
	for _ in {1..200}; do
		[[ ! -s big.qcow2 ]] || break
		sleep 0.05
	done
}

# end SIGNAL: it has ten seconds to end
end() {
	kill -"$1" $child
	for _ in {1..100}; do
		kill -0 $child 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL $child 2>/dev/null || true
	status=0
	wait $child 2>/dev/null || status=$?
	child=''
} 2>/dev/null

test_ended() {
	begin big.qcow2 8G
	run create --force big.qcow2 1M
	ok "a second one waits for none" fails 5 'is in use'
	end TERM
	ok "SIGTERM" fails 1 'big.qcow2 was not made: interrupted.'
	ok "leaves nothing" absent big.qcow2
	begin --data-file big.data big.qcow2 8G
	end HUP
	ok "SIGHUP" is $status 1
	ok "leaves nothing" both absent big.qcow2 absent big.data
	begin big.qcow2 8G
	end KILL
	ok "SIGKILL leaves no image" is \
		"$(qemu-img info -f qcow2 big.qcow2 >/dev/null 2>&1; echo $?)" 1
	fresh
}

test_fails() {
	fresh
	run_limited create --preallocation full a.qcow2 100M
	ok "a file that is too large" fails 1 'a.qcow2 was not made: '
	ok "leaves nothing" absent a.qcow2
	: >a.qcow2
	chmod 666 a.qcow2
	echo old >a.qcow2
	run_limited create --force --preallocation full a.qcow2 100M
	ok "an old file that becomes too large" fails 1 'What was in it is lost.'
	ok "is empty" is "$(stat -c %s a.qcow2)" 0
}

# A file may have 10 MiB.
run_limited() {
	status=0
	(
		trap '' XFSZ
		ulimit -f 10240
		exec "${as_user[@]}" "$tmp/qcow2setup" "$@"
	) >../stdout 2>../stderr </dev/null || status=$?
}

test_progress() {
	fresh
	if ! command -v script >/dev/null; then
		count=$((count + 1))
		echo "ok progress # SKIP no script"
		return
	fi
	script -qec "timeout 3 $tmp/qcow2setup create --preallocation full a.qcow2 8G" \
		typescript >/dev/null || true
	ok "progress on a terminal" grep -q 'Writing: [0-9]* %' typescript
	fresh
}

# Each option and action of --help is in the manual page.
test_manual() {
	local word missing=''

	run --help
	for word in $(grep -o -- '--[a-z0-9-]*' ../stdout | sort -u) create; do
		grep -qF -- "${word//-/\\-}" "$man" || missing+=" $word"
	done
	ok "the manual page has every option" is "$missing" ''
}

test_like_qemu
test_space
test_sizes
test_refused
test_backing
test_existing
test_locks
test_devices
test_ended
test_fails
test_progress
test_manual
echo "1..$count"
((failed == 0))
