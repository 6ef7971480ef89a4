#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# qcow2setup with the module loaded, and the examples of the documentation.
#
# vm: -m 1024 -c 2 -d 2G -d 48M -t 400
# kernels: 6.12 debug kcsan

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
image=$dir/image

# exits STATUS COMMAND...
exits() {
	local want=$1 status=0

	shift
	timeout 60 "$@" || status=$?
	((status == want)) || fail "exit status $status, not $want: $*"
}

open_and_close() {
	create "$image" 64M
	qcow2setup open "$image" a
	[[ $(qcow2setup status a) == *"$image"* ]]
	qcow2setup status --json a | python3 -m json.tool >/dev/null
	qcow2setup info a >/dev/null
	exits 5 qcow2setup open "$image" a	# the name is taken
	exits 5 qcow2setup open "$image" b	# the image is
	qcow2setup close a
	exits 4 qcow2setup close a
	good "$image"
}

# says_read WORDS: of qemu-io, after a comparison.
says_read() {
	[[ $1 == *'read 1048576/1048576'* && $1 != *failed* ]] || fail "$1"
}

# What has not been written back waits for space, and the device with it.
close_without_space() {
	local small=$mnt/small/image n

	mkdir -p "$mnt/small"
	mkfs.ext4 -q -F /dev/vdb
	mount /dev/vdb "$mnt/small"
	dd if=/dev/zero of="$mnt/small/fill" bs=1M count=8 status=none
	create "$tmp/scratch" 1G
	cp --sparse=always "$tmp/scratch" "$small"	# its tables are holes
	qcow2setup open "$small" a
	for ((n = 0; ; n++)); do
		head -c 1M /dev/zero | tr '\0' "\\$(printf %o $((n + 1)))" |
			dd of=/dev/mapper/a bs=1M seek="$n" iflag=fullblock \
				oflag=direct status=none || break
	done
	exits 1 qcow2setup close a 2>"$tmp/words"
	grep -q 'no space' "$tmp/words"
	rm "$mnt/small/fill"
	qcow2setup close a
	good "$small"
	for ((n--; n >= 0; n--)); do
		says_read "$(qemu-io -r -f qcow2 \
			-c "read -P $((n + 1)) ${n}M 1M" "$small")"
	done
	umount "$mnt/small"
}

close_when_idle() {
	create "$image" 64M
	qcow2setup open "$image" a
	exec 5</dev/mapper/a
	exits 5 qcow2setup close a
	qcow2setup close --deferred a
	exec 5<&-
	until_ok 10 fails dmsetup info a
}

read_only() {
	create "$image" 64M
	qcow2setup open --readonly --sector-size 4096 --cache-bytes 2M "$image" a
	qcow2setup open --readonly "$image" b
	[[ $(blockdev --getro /dev/mapper/a) == 1 ]]
	[[ $(blockdev --getss /dev/mapper/a) == 4096 ]]
	exits 5 qcow2setup open "$image" c
	qcow2setup close a
	qcow2setup close b
}

# What the tool writes, dm passes on, the kernel prints and takes back.
odd_path() {
	mkdir -p "$dir/$1"
	create "$dir/$1/image" 4M
	qcow2setup open "$dir/$1/image" a
	dmsetup table a | dmsetup load a
	dmsetup suspend a
	dmsetup resume a
	qcow2setup close a
	qcow2setup table "$dir/$1/image" | dmsetup create a
	dmsetup remove a
}

not_ours() {
	dmsetup create a --table '0 8 zero'
	exits 4 qcow2setup close a
	exits 4 qcow2setup status a
	dmsetup remove a
}

in_use_by_qemu() {
	create "$image" 64M
	background qemu-nbd -t -f qcow2 -k "$tmp/socket" "$image"
	until_ok 20 test -S "$tmp/socket"
	exits 5 qcow2setup open "$image" a
}

# The blocks of the manual that say "# run".
extract_examples() {
	rm -rf "$tmp/examples"
	mkdir "$tmp/examples"
	awk -v to="$tmp/examples/" '
		/^\.\. code-block:: sh/ { code = 1; n++; next }
		code && /^[^ ]/ { code = 0 }
		code { sub(/^  /, ""); print > (to n ".sh") }
	' "$root/Documentation/dm-qcow2.rst"
}

example() {
	bash -ex "$1"
}

host_fs ext4 /dev/vda
try 'open, status, close' open_and_close
try 'close waits until nobody uses the device' close_when_idle
try 'close without space' close_without_space
try 'read-only devices share an image' read_only
for path in 'a space' $'a\ttab' $'a\nnewline' 'a\backslash' 'a\040code' 'à'; do
	try "an image in '${path@Q}'" odd_path "$path"
done
try 'a device that is not ours' not_ours
try 'an image that QEMU has' in_use_by_qemu
umount "$dir"

extract_examples
for file in "$tmp"/examples/*.sh; do
	grep -q '^# run' "$file" || continue
	try "example ${file##*/} of the manual" example "$file"
done
finish
