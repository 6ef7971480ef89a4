#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What is refused, with which words, and what is only read: and that nothing of
# it changes a byte.
#
# brief: paths|options|length|tables|itself
# vm: -m 2048 -c 2 -d 1G -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

dir=$mnt/ext4
image=$dir/image
sectors=16384

# refused WORDS TABLE-LINE: no device, and a log that says why.
refused() {
	read_log
	fails dmsetup create a --table "$2"
	[[ ! -e /dev/mapper/a ]]
	kernel_says "$1"
}

# A copy of the plain image, to be damaged.
copy() {
	cp --sparse=always "$image" "$dir/copy"
}

# refuses WORDS: the copy is refused for what it is, and not touched.
refuses() {
	cp --sparse=always "$dir/copy" "$dir/before"
	refused "$1" "0 1024 qcow2 $dir/copy"
	cmp "$dir/copy" "$dir/before"
}

# --- the table line ----------------------------------------------------------

test_paths() {
	mkfifo "$dir/fifo"
	ln -s nothing "$dir/dangling"
	: >"$dir/empty"
	echo "This is not an image, but it has some length." >"$dir/text"
	head -c 1M /dev/zero >"$dir/zeros"
	refused 'no such image' "0 $sectors qcow2 $dir/missing"
	refused 'no such image' "0 $sectors qcow2 $dir/dangling"
	refused 'qcow2: ' "0 $sectors qcow2 $image/below"
	refused 'neither a regular file' "0 $sectors qcow2 $dir"
	refused 'neither a regular file' "0 $sectors qcow2 $dir/fifo"
	refused 'neither a regular file' "0 $sectors qcow2 /dev/zero"
	refused 'absolute path' "0 $sectors qcow2 relative"
	refused 'qcow2: ' "0 $sectors qcow2 250:77"
	refused 'empty' "0 $sectors qcow2 $dir/empty"
	refused 'not a qcow2 image' "0 1 qcow2 $dir/text"
	refused 'not a qcow2 image' "0 1 qcow2 $dir/zeros"
	rm "$dir"/{fifo,dangling,empty,text,zeros}
}

test_options() {
	local line="0 $sectors qcow2 $image"

	refused 'no image given' "0 $sectors qcow2"
	refused 'how many words' "$line read_only"
	refused 'how many words' "$line 2 read_only"
	refused 'how many words' "$line 0 read_only"
	refused 'how many words' "$line -1"
	refused 'how many words' "$line 4294967297 read_only"
	refused 'unknown option' "$line 1 READ_ONLY"
	refused 'unknown option' "$line 2 read_only 1"
	refused 'lacks its value' "$line 1 sector_size"
	refused 'lacks its value' "$line 1 cache_bytes"
	refused 'sector_size.* 512 or 4096' "$line 2 sector_size 1024"
	refused 'sector_size.* 512 or 4096' "$line 2 sector_size 512x"
	refused 'cache_bytes.* number' "$line 2 cache_bytes 0"
	refused 'cache_bytes.* number' "$line 2 cache_bytes 99999999999999999999"
	refused 'twice' "$line 2 read_only read_only"
	refused 'twice' "$line 4 sector_size 512 sector_size 512"
	refused 'no such layer' "$line 3 backing qcow2 $dir/missing"
	refused 'must be qcow2 or raw' "$line 3 backing vmdk $dir/missing"
	refused 'no such layer or data file' "$line 2 data_file $dir/missing"
	refused 'twice' "$line 4 data_file $dir/missing data_file $dir/missing"
	refused 'no such key' "$line 3 luks aes-xts-plain64 :64:logon:key"
	refused 'no such key' "$line 2 aes :16:logon:key"
	refused 'twice' "$line 4 aes :16:logon:key aes :16:logon:key"
	refused 'raw layer is not encrypted' \
		"$line 5 backing raw $dir/missing aes :16:logon:key"
	refused 'snapshot.*not supported' "$line 2 snapshot 1"
	# whatever works must still work
	dmsetup create a --table "$line 5 cache_bytes 1 read_only sector_size 512"
	detach a
	cmp "$image" "$dir/pristine"
}

test_length() {
	refused 'longer than the image' "0 $((sectors + 1)) qcow2 $image"
	refused 'longer than the image' \
		"0 $((sectors + 1)) qcow2 $image 1 read_only"
	refused 'multiple of the sector size' \
		"0 $((sectors - 1)) qcow2 $image 2 sector_size 4096"
	dmsetup create a --table "0 1000 qcow2 $image"
	[[ $(blockdev --getsz /dev/mapper/a) == 1000 ]]
	dd if=/dev/mapper/a of=/dev/null bs=1000b iflag=direct
	detach a
	cmp "$image" "$dir/pristine"
}

# --- images ------------------------------------------------------------------

test_truncated() {
	local bytes

	for bytes in 3 40 71 90 512 65536 131072 196608; do
		copy
		truncate -s $bytes "$dir/copy"
		refuses 'qcow2: .*'
	done
}

# One field of the header each.
test_damaged_header() {
	local offset hex words

	while read -r offset hex words; do
		copy
		poke "$dir/copy" "$offset" "$hex"
		refuses "$words"
	done <<-EOT
	4 00000004 version 4
	20 00000008 cluster_bits 8
	20 00000016 cluster_bits 22
	24 ffffffffffffffff virtual size
	36 00000000 L1 table of 0 entries is too small
	36 ffffffff L1 table of 4294967295 entries
	40 0000000000030001 L1 table offset.*multiple
	40 0000000000000000 L1 table offset is 0
	48 7fffffffffff0000 refcount table
	56 00000000 refcount table of 0 clusters
	60 00010001 65537 snapshots
	72 0000000000000020 bit 5
	72 8000000000000000 bit 63
	96 00000007 refcount_order 7
	100 00000064 header_length 100
	100 00020000 header_length 131072
	EOT
}

# What the image needs and does not get is named.
test_features() {
	local luks

	create "$dir/base" 8M
	create "$dir/copy" 8M "backing_file=$dir/base" backing_fmt=qcow2
	refuses 'names a backing file; give it'
	refused 'names a backing file; give it' \
		"0 $sectors qcow2 $dir/copy 1 read_only"
	create "$dir/copy" 8M "data_file=$dir/data"
	refuses 'external data file; give it'
	copy
	poke "$dir/copy" 32 00000001
	refuses 'AES encryption; give its key'
	# QEMU would take its time over the key; the extension will do
	copy
	luks=0537be77000000100000000000050000000000000001000000000000
	poke "$dir/copy" 32 00000002
	poke "$dir/copy" "$(od -A n -t u4 --endian=big -j 100 -N 4 "$image")" \
		"${luks}00000000"
	truncate -s 1M "$dir/copy"
	refuses 'LUKS encryption; give its cipher and key'
}

# reads_only WORD: a readable device of which not a byte can be written.
reads_only() {
	local why=$1

	cp --sparse=always "$dir/copy" "$dir/before"
	read_log
	attach a "$dir/copy"
	[[ $(mode a) == ro && $(field a 2) == *$why* ]]
	kernel_says "$why.*read-only"
	ln -sf "$dir/model" "$tmp/model.a"
	run_io a -r -n 20
	fails dd if=/dev/zero of=/dev/mapper/a bs=64k count=1 oflag=direct
	fails dd if=/dev/zero of=/dev/mapper/a bs=4k seek=1000 count=1 oflag=direct
	sync /dev/mapper/a
	dmsetup suspend a
	dmsetup resume a
	[[ $(mode a) == ro ]]
	detach a
	cmp "$dir/copy" "$dir/before"
}

test_read_only_images() {
	copy
	poke "$dir/copy" 72 0000000000000002
	reads_only corrupt
	attach a "$dir/copy" read_only
	run_io a -v
	detach a
}

# An L2 entry, and then an L1 entry, that names no cluster: found when used;
# the image is marked and can only be read from then on.
test_damaged_tables() {
	local l1 l2

	copy
	l1=$(od -A n -t u8 --endian=big -j 40 -N 8 "$dir/copy")
	l2=$((16#$(od -A n -t x1 -j "$l1" -N 8 "$dir/copy" | tr -d ' ') &
		0x00fffffffffffe00))
	poke "$dir/copy" $((l2 + 8 * 20)) 8000000000001200
	attach a "$dir/copy"
	fails dd if=/dev/mapper/a bs=64k skip=20 count=1 iflag=direct of=/dev/null
	dd if=/dev/mapper/a bs=64k skip=21 count=1 iflag=direct of=/dev/null
	[[ $(mode a) == ro ]]
	kernel_says 'L2 table.*0x8000000000001200'
	fails dd if=/dev/zero of=/dev/mapper/a bs=64k count=1 oflag=direct
	detach a
	[[ $(od -A n -t x8 --endian=big -j 72 -N 8 "$dir/copy") == *2 ]]

	copy
	poke "$dir/copy" "$l1" 8000000000000200
	attach a "$dir/copy"
	fails dd if=/dev/mapper/a bs=64k count=1 iflag=direct of=/dev/null
	[[ $(mode a) == ro ]]
	kernel_says 'L1 table.*0x8000000000000200'
	detach a
}

# A device cannot be its own image, nor hold it.
test_self() {
	copy
	attach a "$dir/copy"
	mkfs.ext4 -q -F /dev/mapper/a
	mkdir -p "$mnt/guest"
	mount /dev/mapper/a "$mnt/guest"
	create "$mnt/guest/image" 4M
	sync
	fails dmsetup load a --table "0 8192 qcow2 $mnt/guest/image"
	kernel_says 'lies on the device'
	fails dmsetup load a --table "0 1024 qcow2 /dev/mapper/a"
	kernel_says 'own image|cannot be opened|in use'
	# on another device it may lie there
	dmsetup create b --table "0 8192 qcow2 $mnt/guest/image"
	dd if=/dev/urandom of=/dev/mapper/b bs=64k count=16 oflag=direct conv=fsync
	detach b
	good "$mnt/guest/image"
	umount "$mnt/guest"
	detach a
	good "$dir/copy"
}

host_fs ext4 /dev/vda
create "$image" 8M
qemu-io -f qcow2 -c 'write -P 7 0 300k' -c 'write -P 8 5M 100k' \
	-c 'write -P 9 1280k 128k' -c 'write -z 6M 1M' "$image" >/dev/null
qemu-img convert -f qcow2 -O raw "$image" "$dir/model"
cp "$image" "$dir/pristine"
try "paths" test_paths
try "options" test_options
try "length" test_length
try "truncated images" test_truncated
try "damaged headers" test_damaged_header
try "features that are missing" test_features
try "images that can only be read" test_read_only_images
try "damaged tables" test_damaged_tables
try "not on itself" test_self
finish
