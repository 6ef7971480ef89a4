#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Filesystems on the device: what was copied to them is there after a remount,
# and QEMU sees the same filesystem.
#
# brief: ^xfs|device
# vm: -m 2048 -c 2 -d 1G -d 1G -d 768M,bs=4096 -t 600

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"

# Small files and folders, some links, and a file of some size.
make_tree() {
	local folder

	mkdir "$tmp/tree"
	for folder in $(few "usb can dvb" can); do
		cp -r "/usr/include/linux/$folder" "$tmp/tree/"
	done
	head -c 6M /dev/urandom >"$tmp/tree/large"
	truncate -s 9M "$tmp/tree/sparse"
	echo end >>"$tmp/tree/sparse"
	ln -s large "$tmp/tree/symlink"
	ln "$tmp/tree/large" "$tmp/tree/hardlink"
	find "$tmp/tree" -type f | wc -l
}

# mkfs_on TYPE DEVICE
mkfs_on() {
	case $1 in
	ext4) mkfs.ext4 -q -F "$2" ;;
	xfs) mkfs.xfs -q -f "$2" ;;
	esac
}

# fsck_of TYPE DEVICE: changes nothing.
fsck_of() {
	case $1 in
	ext4) e2fsck -f -n "$2" ;;
	xfs) xfs_repair -n "$2" ;;
	esac
}

# While the tree is copied, the filesystem is frozen and the device suspended
# now and then, and a new table comes.
disturb() {
	while [[ -e $tmp/scratch/copying ]]; do
		sleep 0.5
		dmsetup suspend a
		dmsetup load a --table "$(dmsetup table a)"
		dmsetup resume a
	done
}

copy_tree() {
	mkdir -p "$tmp/scratch"
	touch "$tmp/scratch/copying"
	background disturb
	cp -a "$tmp/tree" "$mnt/guest/one"
	cp -a "$mnt/guest/one" "$mnt/guest/two"
	rm -r "$mnt/guest/one"
	cp -a "$tmp/tree" "$mnt/guest/three"
	rm "$tmp/scratch/copying"
	wait
}

compare_trees() {
	diff -r --no-dereference "$tmp/tree" "$mnt/guest/two"
	diff -r --no-dereference "$tmp/tree" "$mnt/guest/three"
	[[ $(stat -c %h "$mnt/guest/three/hardlink") == 2 ]]
}

test_filesystem() {
	local type=$1 image=$2

	shift 2
	create "$image" 384M
	attach a "$image" "$@"
	mkdir -p "$mnt/guest"
	mkfs_on "$type" /dev/mapper/a
	mount /dev/mapper/a "$mnt/guest"
	copy_tree
	umount "$mnt/guest"
	fsck_of "$type" /dev/mapper/a
	mount /dev/mapper/a "$mnt/guest"
	compare_trees
	umount "$mnt/guest"
	detach a
	good "$image"

	qemu-img convert -f qcow2 -O raw "$image" "$tmp/model.a"
	mount -o loop,ro "$tmp/model.a" "$mnt/guest"
	compare_trees
	umount "$mnt/guest"
}

make_tree >/dev/null
host_fs ext4 /dev/vda
host_fs xfs /dev/vdb
try "xfs on a file on ext4" test_filesystem xfs "$mnt/ext4/image"
try "ext4 on a file on xfs" test_filesystem ext4 "$mnt/xfs/image"
try "ext4 on a device, sector_size 4096" \
	test_filesystem ext4 /dev/vdc sector_size 4096
finish
