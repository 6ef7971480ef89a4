#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# vm: -d 2G -t 600
# kernels: 6.12
#
# What "make demo" shows, inside the guest: a qcow2 image made by QEMU is used
# as a disk by the kernel and read again by QEMU. Every command is shown before
# it runs; the first that fails ends the demonstration. Besides, it is TAP.

set -euo pipefail

if [[ ${1-} == --help ]]; then
	cat <<-EOF
	Usage: tests/demo.sh [DISK]

	Runs in the guest of tests/vm/run. DISK (default: /dev/vda) is erased.
	EOF
	exit
fi

disk=${1:-/dev/vda}
host=/tmp/demo/host guest=/tmp/demo/guest
facts=0

say() {
	printf '\n'
	printf '%s\n' "$@" | fold -s -w 76
}

# run COMMAND: show it, run it, show what it says.
run() {
	printf '    $ %s\n' "$1"
	eval "$1" 2>&1 | sed 's/^/      /'
}

fact() {
	facts=$((facts + 1))
	printf '\nok %d - %s\n' $facts "$1"
}

finish() {
	local status=$?

	trap - EXIT
	if ((status)); then
		facts=$((facts + 1))
		printf '\nnot ok %d - the last command above failed (%d)\n' \
			$facts $status
	else
		printf '\nAll of it held: what was written through the kernel is what QEMU reads.\n'
	fi
	echo "1..$facts"
	cd /
	umount $guest $host 2>/dev/null || true
	exit $status
}
trap finish EXIT

mkdir -p $host $guest
printf 'dm-qcow2 on Linux %s, qcow2 target %s\n' "$(uname -r)" \
	"$(dmsetup targets | sed -n 's/^qcow2 *//p')"

say "1. A filesystem of the host, on the empty disk $disk, and in it an image" \
	"of 512 MiB. QEMU makes it; it takes almost no space yet."
run "mkfs.ext4 -q -F $disk"
run "mount $disk $host"
run "cd $host"
cd $host
run "qemu-img create -f qcow2 vm0.qcow2 512M"
run "qcow2setup info vm0.qcow2"
fact "QEMU made an image"

say "2. The image becomes a block device. A table line for dmsetup says which;" \
	"there is no daemon, and no process stays."
run "qcow2setup table vm0.qcow2"
run "qcow2setup table vm0.qcow2 | dmsetup create vm0"
run "dmsetup table vm0"
run "blockdev --getsize64 /dev/mapper/vm0"
fact "the kernel attached it as /dev/mapper/vm0"

say "3. While it is attached, QEMU keeps off: the kernel holds the locks that" \
	"QEMU itself would hold."
printf '    $ qemu-img info vm0.qcow2\n'
if message=$(qemu-img info vm0.qcow2 2>&1); then
	echo "      $message"
	false
fi
printf '%s\n' "$message" | sed 's/^/      /'
grep -q lock <<<"$message"
fact "QEMU is refused while the kernel has the image"

say "4. A filesystem on that device, files in it, and a checksum of each."
run "mkfs.ext4 -q /dev/mapper/vm0"
run "mount /dev/mapper/vm0 $guest"
run "cp -r /usr/share/doc/e2fsprogs /usr/sbin/mkfs.ext4 $guest/"
run "head -c 50M /dev/urandom >$guest/random"
run "(cd $guest && find . -type f -exec sha256sum {} + >$host/sums)"
run "wc -l <sums"
run "df -h --output=size,used,target $guest"
run "umount $guest"
fact "files were written through the kernel"

say "5. A copy of the whole device, read through the kernel; then it goes."
run "dd if=/dev/mapper/vm0 of=copy.raw bs=1M conv=sparse status=none"
run "qcow2setup status vm0"
run "dmsetup remove vm0"
fact "the device was removed"

say "6. QEMU looks at the image that the kernel has written: is its structure" \
	"sound, and are the contents the same? The kernel has no part in this."
run "qemu-img check vm0.qcow2"
fact "qemu-img check finds no error and no leak"
run "qemu-img compare vm0.qcow2 copy.raw"
run "qemu-img convert -O raw vm0.qcow2 converted.raw"
run "cmp converted.raw copy.raw && echo same"
fact "QEMU reads exactly what the kernel read"
run "rm converted.raw copy.raw"

say "7. The image again, this time with qcow2setup, and the checksums."
run "qcow2setup --verbose open vm0.qcow2 vm0"
run "fsck.ext4 -f -n /dev/mapper/vm0"
run "mount /dev/mapper/vm0 $guest"
run "(cd $guest && sha256sum --quiet -c $host/sums && echo all match)"
fact "every file has its checksum after a new attach"
run "qcow2setup status vm0"
run "umount $guest"
run "qcow2setup close vm0"
run "qemu-img check vm0.qcow2"
fact "the image is sound after the last detach"
