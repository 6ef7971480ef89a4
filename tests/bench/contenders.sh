# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# The contenders, sourced by guest.sh: how each is called, what it is compared
# with, how it comes up and goes down. All files lie on one ext4 in memory, and
# every disk is in memory: what is measured is software.

declare -A base label device disk
sectors=$((mib * 2048))

# contender NAME BASE LABEL
contender() {
	base[$1]=$2
	label[$1]=$3
}

# ram_disk NAME MIB: sets disk[NAME].
ram_disk() {
	local knob=/sys/kernel/config/nullb/$1

	mkdir "$knob"
	echo 1 >"$knob/memory_backed"
	echo 0 >"$knob/irqmode"
	echo "$2" >"$knob/size"
	echo 1 >"$knob/power"
	disk[$1]=/dev/$1
	[[ -b ${disk[$1]} ]] || disk[$1]=/dev/nullb$(<"$knob/index")
}

no_ram_disk() {
	echo 0 >"/sys/kernel/config/nullb/$1/power"
	rmdir "/sys/kernel/config/nullb/$1"
}

# slice NAME START MIB: a part of the set's own disk; sets disk[NAME].
slice() {
	dmsetup create "$1" --table \
		"0 $(($3 * 2048)) linear /dev/vda $(($2 * 2048))"
	disk[$1]=/dev/mapper/$1
}

# loop_device NAME OPTION...: of a raw file of that name; sets device[NAME].
loop_device() {
	local name=$1

	shift
	fill raw "$fs/$name"
	device[$name]=$(losetup --find --show "$@" "$fs/$name")
}

contender loop loop 'raw file, loop, direct I/O'
up_loop() {
	loop_device loop --direct-io=on
}
down_loop() {
	losetup -d "${device[loop]}"
}

# The whole file is in the page cache before anybody reads.
contender buffered loop 'raw file, loop, page cache'
up_buffered() {
	loop_device buffered --direct-io=off
	cat "$fs/buffered" >/dev/null
}
down_buffered() {
	losetup -d "${device[buffered]}"
}

contender file loop 'qcow2 file, dm-qcow2'
up_file() {
	fill qcow2 "$fs/file"
	dmsetup create file --table "0 $sectors qcow2 $fs/file"
	device[file]=/dev/mapper/file
}
down_file() {
	dmsetup remove file
}

contender nbd loop 'qcow2 file, qemu-nbd'
up_nbd() {
	fill qcow2 "$fs/nbd"
	mkdir -p /run/lock # it wants that
	qemu-nbd -c /dev/nbd0 -f qcow2 --aio=native --cache=none "$fs/nbd"
	device[nbd]=/dev/nbd0
	until (($(</sys/block/nbd0/size))); do
		sleep 0.1
	done
}
down_nbd() {
	qemu-nbd -d /dev/nbd0 >/dev/null
	while pidof qemu-nbd >/dev/null; do
		sleep 0.1
	done
}

contender crypt loop 'raw file, loop, dm-crypt'
up_crypt() {
	loop_device crypt --direct-io=on
	below=${device[crypt]}
	dmsetup create crypt --table "0 $sectors crypt aes-xts-plain64 \
		$(printf '%064d%064d' 1 2) 0 $below 0"
	device[crypt]=/dev/mapper/crypt
}
down_crypt() {
	dmsetup remove crypt
	losetup -d "$below"
}

# without threads of its own, as is best on a fast disk
contender inline inline 'raw file, loop, dm-crypt inline'
up_inline() {
	loop_device inline --direct-io=on
	below=${device[inline]}
	dmsetup create inline --table "0 $sectors crypt aes-xts-plain64 \
		$(printf '%064d%064d' 1 2) 0 $below 0 2 \
		no_read_workqueue no_write_workqueue"
	device[inline]=/dev/mapper/inline
}
down_inline() {
	dmsetup remove inline
	losetup -d "$below"
}

contender luks inline 'qcow2 file with LUKS, dm-qcow2'
up_luks() {
	fill qcow2 "$fs/luks"
	keyctl padd logon bench:key @u <"$images/key" >/dev/null
	dmsetup create luks --table \
		"0 $sectors qcow2 $fs/luks 3 luks aes-xts-plain64 :64:logon:bench:key"
	device[luks]=/dev/mapper/luks
}
down_luks() {
	dmsetup remove luks
}

contender luksnbd luksnbd 'qcow2 file with LUKS, qemu-nbd'
up_luksnbd() {
	fill qcow2 "$fs/luksnbd"
	mkdir -p /run/lock # it wants that
	qemu-nbd -c /dev/nbd0 --object "secret,id=s,file=$images/phrase" \
		--aio=native --cache=none --image-opts \
		"driver=qcow2,file.filename=$fs/luksnbd,encrypt.key-secret=s"
	device[luksnbd]=/dev/nbd0
	until (($(</sys/block/nbd0/size))); do
		sleep 0.1
	done
}
down_luksnbd() {
	down_nbd
}

contender linear linear 'raw device, dm-linear'
up_linear() {
	ram_disk linear "$mib"
	fill raw "${disk[linear]}"
	dmsetup create linear --table "0 $sectors linear ${disk[linear]} 0"
	device[linear]=/dev/mapper/linear
}
down_linear() {
	dmsetup remove linear
	no_ram_disk linear
}

contender block linear 'qcow2 device, dm-qcow2'
up_block() {
	ram_disk block $((mib + mib / 8 + 8))
	fill qcow2 "${disk[block]}"
	dmsetup create block --table "0 $sectors qcow2 ${disk[block]}"
	device[block]=/dev/mapper/block
}
down_block() {
	dmsetup remove block
	no_ram_disk block
}

# As a pool is by default: blocks of 64 KiB, zeroed before use.
contender thin linear 'raw device, dm-thin'
up_thin() {
	ram_disk thin $((mib + 64))
	ram_disk thinmeta 16
	dd if=/dev/zero of="${disk[thinmeta]}" bs=4k count=1 status=none
	dmsetup create thinpool --table "0 $(((mib + 64) * 2048)) thin-pool \
		${disk[thinmeta]} ${disk[thin]} 128 0"
	dmsetup message thinpool 0 'create_thin 0'
	dmsetup create thin --table "0 $sectors thin /dev/mapper/thinpool 0"
	device[thin]=/dev/mapper/thin
	fill raw "${device[thin]}"
}
down_thin() {
	dmsetup remove thin
	dmsetup remove thinpool
	no_ram_disk thin
	no_ram_disk thinmeta
}

# deep NAME BASE: a table line with BASE under 63 overlays.
deep() {
	local n layers=()

	for ((n = 0; n < 63; n++)); do
		fill overlay "$fs/$1.$n"
		layers+=(backing qcow2 "$fs/$1.$n")
	done
	layers+=(backing qcow2 "$2")
	# the topmost is the image itself
	echo "0 $sectors qcow2 ${layers[2]} $((${#layers[@]} - 3)) ${layers[*]:3}"
}

# warm NAME: a round is too short to have looked everything up once.
warm() {
	dd if="/dev/mapper/$1" of=/dev/null bs=1M iflag=direct status=none
	device[$1]=/dev/mapper/$1
}

contender deepfile file 'under 63 overlays, dm-qcow2'
up_deepfile() {
	fill qcow2 "$fs/deepfile"
	dmsetup create deepfile --table "$(deep deepfile "$fs/deepfile")"
	warm deepfile
}
down_deepfile() {
	dmsetup remove deepfile
}

contender deepblock block 'device under 63, dm-qcow2'
up_deepblock() {
	ram_disk deepblock $((mib + mib / 8 + 8))
	fill qcow2 "${disk[deepblock]}"
	dmsetup create deepblock --table \
		"$(deep deepblock "${disk[deepblock]}")"
	warm deepblock
}
down_deepblock() {
	dmsetup remove deepblock
	no_ram_disk deepblock
}

# over NAME IMAGE WHERE: over a base that all of them share.
over() {
	[[ -e $fs/base ]] || fill qcow2 "$fs/base"
	fill "$2" "$3"
	dmsetup create "$1" --table \
		"0 $sectors qcow2 $3 3 backing qcow2 $fs/base"
	device[$1]=/dev/mapper/$1
}

contender clusters clusters 'overlay in a file'
up_clusters() {
	over clusters clusters "$fs/clusters"
}
down_clusters() {
	dmsetup remove clusters
}

contender subclusters clusters 'the same with subclusters'
up_subclusters() {
	over subclusters subclusters "$fs/subclusters"
}
down_subclusters() {
	dmsetup remove subclusters
}

contender diskclusters diskclusters 'overlay on a disk'
up_diskclusters() {
	slice slice0 "$fs_mib" $((2 * mib))
	over diskclusters clusters "${disk[slice0]}"
}
down_diskclusters() {
	dmsetup remove diskclusters
	dmsetup remove slice0
}

contender disksubclusters diskclusters 'the same with subclusters'
up_disksubclusters() {
	slice slice1 $((fs_mib + 2 * mib)) $((2 * mib))
	over disksubclusters subclusters "${disk[slice1]}"
}
down_disksubclusters() {
	dmsetup remove disksubclusters
	dmsetup remove slice1
}
