#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# One life of a soak, in the guest: episodes, in each of which an image of some
# kind, on a host of some kind, under layers of some kind, is written while
# something happens. SEED decides.
#
# vm: -m 512 -c 1 -d 2G -d 2G -d 1G -d 64M -t 2400

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/../functional/lib.sh"

pressure=$root/build/tests/functional/pressure
seed=${SEED:-1}
host=$mnt/host
guest=$mnt/guest
knob=/sys/kernel/config/nullb/cut
mkdir -p "$host" "$guest"

# A subshell of bash seeds $RANDOM anew, so this has its own numbers: draw N
# sets $r to one of 0 to N - 1, one WORD... sets it to a word.
draw() {
	state=$((state * 6364136223846793005 + 1442695040888963407))
	r=$((((state >> 33) & 0x3fffffff) % $1))
}

one() {
	draw $#
	shift "$r"
	r=$1
}

# --- what there is to choose from --------------------------------------------

choose_host() {
	one ext4 ext4 xfs xfs device device zfs
	below=$r
	case $below in
	zfs)
		mkdir -p /run/lock /run/zfs
		modprobe fuse || true
		zfs-fuse --no-kstat-mount -n -m 16 &>/dev/null &
		daemon=$!
		until_ok 30 zpool list
		zpool create -f -o cachefile=none -m "$host" host /dev/vda ;;
	device)
		image=/dev/vda
		# what the last one has left is gone
		mkfs.ext4 -q -F -E nodiscard /dev/vdb
		mount /dev/vdb "$host"
		return ;;
	ext4) mkfs.ext4 -q -F -E nodiscard /dev/vda ;;
	xfs) mkfs.xfs -q -f -K /dev/vda ;;
	esac
	[[ $below == zfs ]] || mount -t "$below" /dev/vda "$host"
	image=$host/image
}

host_gone() {
	if [[ $below == zfs ]]; then
		zpool export host
		kill "$daemon"
		wait "$daemon" || true
	else
		umount "$host"
	fi
}

# Writes for qemu-io on an image of so many MiB.
scribble() {
	local n at compressed=$3

	for ((n = 0; n < 25; n++)); do
		draw $((($2 - 1) * 2048))
		at=$((r * 512))
		draw 4
		case $r$compressed in
		0y) echo "write -c -P $n $((at / 65536 * 65536)) 64k" ;;
		*) draw 200; echo "write -P $n $at $((r * 512 + 512))" ;;
		esac
	done | qemu-io -f "$1" "$4" >/dev/null 2>&1 || true
}

# An image of $mib, its options in $options, those of its table in $line.
choose_image() {
	local options=() top=("$image") depth n format under='' compressed=y

	line=()
	rm -f "$host"/image "$host"/layer* "$host"/data
	one 4k 16k 64k 64k 64k 256k 2M
	options=("cluster_size=$r")
	draw 4
	case $r in
	0) [[ ${options[0]} == *=4k ]] || {
		options+=(extended_l2=on)
		compressed=''
	} ;;
	1) options+=(lazy_refcounts=on) ;;
	2) one 1 8 16 64; options+=("refcount_bits=$r") ;;
	esac
	draw 4
	if ((r == 0)); then
		# of a chain all layers are files
		draw 3
		depth=$((r + 1))
		for ((n = depth; n > 0; n--)); do
			format=qcow2
			draw 2
			((n < depth || r)) || format=raw
			qemu-img create -q -f $format ${under:+-F "${under% *}" \
				-b "${under#* }"} "$host/layer$n" "${mib}M"
			under="$format $host/layer$n"
			scribble $format "$mib" "$([[ $format == raw ]] || echo y)" \
				"$host/layer$n"
			# shellcheck disable=SC2206 # two words
			line=(backing $under "${line[@]}")
		done
		options+=("backing_fmt=$format" "backing_file=$host/layer1")
	elif ((r == 1)); then
		options+=("data_file=$host/data")
		line=(data_file "$host/data")
		compressed=''
	else
		draw 4
		((r)) || options+=(preallocation=metadata)
	fi
	echo "$below: $mib MiB, ${options[*]}, table: ${line[*]}"
	create "${top[@]}" "${mib}M" "${options[@]}"
	draw 2
	((r)) || scribble qcow2 "$mib" "$compressed" "$image"
}

# --- what happens meanwhile --------------------------------------------------

# Until $tmp/scratch is gone.
disturb() {
	local what=$1 open

	# shellcheck disable=SC2034 # until we end
	exec {open}</dev/mapper/a
	while [[ -e $tmp/scratch ]]; do
		case $what in
		suspend) dmsetup suspend a; sleep 0.3; dmsetup resume a ;;
		noflush) dmsetup suspend --noflush a; dmsetup resume a ;;
		reload)
			dmsetup load a --table "$(dmsetup table a)"
			dmsetup suspend a
			dmsetup resume a ;;
		remove) fails dmsetup remove a; dmsetup message a 0 retry ;;
		memory) echo 3 >/proc/sys/vm/drop_caches ;;
		full)
			# to be the last would be to be full for ever
			dd if=/dev/zero of="$host/ballast" bs=1M status=none || true
			sleep 1
			rm -f "$host/ballast" ;;
		esac
		sleep 0.5
	done
} &>"$tmp/disturb.log"

disturb_up() {
	echo "meanwhile: $1"
	touch "$tmp/scratch"
	disturb "$1" &
	disturber=$!
	echo "$disturber" >>"$tmp/background"
}

disturb_down() {
	rm "$tmp/scratch"
	wait "$disturber" || fail "$(tail "$tmp/disturb.log")"
}

hog_up() {
	local mib

	mib=$(($(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) - $1))
	hog=''
	((mib >= 16)) || return 0
	"$pressure" -H "$mib" >"$tmp/hog.log" 2>&1 &
	hog=$!
	echo "$hog" >>"$tmp/background"
	until_ok 240 grep -q has "$tmp/hog.log"
}

hog_down() {
	[[ $hog ]] || return 0
	kill "$hog"
	wait "$hog" || fail "$(cat "$tmp/hog.log")"
	cat "$tmp/hog.log"
}

# --- episodes ----------------------------------------------------------------

tidy() {
	set +e
	[[ ! -d $knob ]] || {
		umount "$host"
		echo 0 >"$knob/power"
		rmdir "$knob"
	}
	umount "$guest" "$host"
	[[ ! $daemon ]] || kill "$daemon"
} &>/dev/null

# Against a model, with discards, and perhaps a larger disk in the end.
on_device() {
	mib=$((16 + mib % 32))
	choose_image
	qemu-img convert -f qcow2 -O raw "$image" "$tmp/model.a"
	attach a "$image" "${line[@]}"
	one suspend noflush reload remove memory
	disturb_up "$r"
	draw 3
	hog=''
	((r == 0)) || [[ $below == zfs ]] || hog_up 140
	draw 8
	SEED=$seed run_io a -z -j 4 -t $((4 + r))
	disturb_down
	hog_down
	draw 2
	if ((r)) && [[ $below != zfs ]]; then
		echo "resize to $((mib + 8)) MiB"
		dmsetup suspend a
		dmsetup message a 0 resize $(((mib + 8) << 20))
		dmsetup load a --table "$(dmsetup table a |
			awk -v n=$(((mib + 8) << 11)) '{ $2 = n; print }')"
		dmsetup resume a
		truncate -s $((mib + 8))M "$tmp/model.a"
		SEED=$((seed + 1)) run_io a -z -j 4 -t 3
	fi
	[[ $(mode a) == rw ]]
	done_with a "$image"
}

# Files of a filesystem, perhaps through another target.
under_filesystem() {
	local above through device=/dev/mapper/a load=(-j 4 -m 48)

	mib=$((320 + mib % 128))
	choose_image
	attach a "$image" "${line[@]}"
	one none crypt linear self
	through=$r
	echo "through: $through"
	case $through in
	crypt)
		modprobe dm-crypt || true
		dmsetup create b --table "0 $(blockdev --getsz $device) crypt \
			aes-xts-plain64 $(printf %0128d 7) 0 $device 0"
		device=/dev/mapper/b ;;
	linear)
		dmsetup create b --table "0 $((mib * 2048 - 8)) linear $device 8"
		device=/dev/mapper/b ;;
	self)
		create $device $((mib - 16))M
		attach b $device
		device=/dev/mapper/b ;;
	esac
	one ext4 xfs
	((mib >= 340)) || r=ext4
	above=$r
	echo "filesystem: $above"
	case $above in
	ext4) mkfs.ext4 -q -F $device ;;
	xfs) mkfs.xfs -q -f $device ;;
	esac
	mount -t "$above" $device "$guest"
	one none suspend noflush reload remove memory
	disturb_up "$r"
	draw 12
	hog=''
	if [[ $below == zfs ]]; then
		load=(-j 2 -m 12 -w 12)
	else
		hog_up $((90 + r * 10))
	fi
	rm -f "$tmp/ledger"
	"$pressure" -s "$seed" "${load[@]}" -t $((8 + r)) "$guest" "$tmp/ledger"
	disturb_down
	hog_down
	umount "$guest"
	mount -t "$above" $device "$guest"
	"$pressure" -v "$guest" "$tmp/ledger"
	umount "$guest"
	[[ ! -e /dev/mapper/b ]] || detach b
	[[ $through != self ]] || good /dev/mapper/a
	[[ $(mode a) == rw ]]
	detach a
	good "$image"
}

# The host has no space most of the time.
without_space() {
	one 4k 64k
	mkfs.ext4 -q -F /dev/vdd
	mount /dev/vdd "$host"
	image=$host/image
	create "$image" 256M "cluster_size=$r"
	attach a "$image"
	disturb_up full
	rm -f "$tmp/ledger"
	"$pressure" -s "$seed" -j 4 -m 3 -d -e -t 10 /dev/mapper/a "$tmp/ledger"
	disturb_down
	"$pressure" -v /dev/mapper/a "$tmp/ledger"
	detach a
	good "$image"
	umount "$host"
}

# What was flushed is there when the power is back. null_blk loses the rest.
power_cuts() {
	local n disk status

	modprobe null_blk nr_devices=0
	mkdir "$knob"
	echo 1 >"$knob/memory_backed"
	echo 200 >"$knob/size"
	one 2 4
	echo "$r" >"$knob/cache_size"
	echo 512 >"$knob/blocksize"
	# with more a flush can wait for ever for a write
	echo 1 >"$knob/hw_queue_depth"
	echo 1 >"$knob/power"
	disk=/dev/cut
	[[ -b $disk ]] || disk=/dev/nullb$(<"$knob/index")
	one 4k 64k 64k
	create "$disk" 32M "cluster_size=$r"
	sync "$disk"
	rm -f "$tmp/ledger"
	for n in 1 2 3 4; do
		status=0
		qemu-img check -q -f qcow2 "$disk" || status=$?
		((status == 0 || status == 3)) || fail "check: $status"
		attach a "$disk"
		"$diffio" -p "$tmp/ledger" -v /dev/mapper/a
		((n < 4)) || break
		"$diffio" -s "$seed" -p "$tmp/ledger" -j 4 -m 131072 -t 60 \
			/dev/mapper/a >"$tmp/io.log" &
		io=$!
		echo $io >>"$tmp/background"
		draw 20
		sleep "$((r / 10)).$((r % 10))5"
		echo 0 >"$knob/power"
		wait $io
		detach a
		echo 1 >"$knob/power"
	done
	detach a
	echo 0 >"$knob/power"
	rmdir "$knob"
}

# From one moment to the next it is a device that only fails.
replaced() {
	choose_host
	line=()
	create "$image" 64M
	attach a "$image"
	rm -f "$tmp/ledger"
	"$diffio" -s "$seed" -p "$tmp/ledger" -j 4 -m 131072 -t 60 \
		/dev/mapper/a >"$tmp/io.log" &
	io=$!
	echo $io >>"$tmp/background"
	until_ok 30 is_open
	draw 20
	sleep "$((r / 10 + 1)).$((r % 10))"
	dmsetup remove --force a || [[ $(dmsetup table a) == *error* ]]
	wait $io
	grep 'until the device failed' "$tmp/io.log"
	! dmsetup info a || detach a
	good "$image"
	attach a "$image"
	"$diffio" -p "$tmp/ledger" -v /dev/mapper/a
	detach a
	host_gone
}

episode() {
	local below='' image='' line=() mib r hog='' daemon='' disturber io

	trap tidy EXIT
	draw 1024
	mib=$r
	case $1 in
	on_device | under_filesystem)
		choose_host
		"$1"
		host_gone ;;
	*) "$1" ;;
	esac
}

echo "# seed $seed"
for n in 1 2 3 4 5 6; do
	state=$((seed * 100 + n))
	for _ in 1 2 3 4; do
		draw 2
	done
	one on_device on_device under_filesystem under_filesystem \
		under_filesystem without_space power_cuts replaced
	try "$n: $r" episode "$r"
done
finish
