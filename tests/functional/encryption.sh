#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Encrypted images: every cipher that QEMU writes, in both directions, against QEMU;
# keys that are wrong, gone, wiped and given back; no plaintext in the image, also
# after power cuts.
#
# quick: known.*(aes-xts-plain64|aes-cbc-essiv:sha256|cast5-cbc-plain64)$|small|extended L2$|sectors|AES on|layers|key|tool
# brief: known.*: (aes|serpent|twofish)-xts-plain64$|small|AES on|layers|key|tool|plaintext$
# vm: -m 1536 -c 2 -d 1G -d 256M -d 256M,bs=4096 -t 1800

# shellcheck source=tests/functional/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=tests/lib/crypt.sh
source "$root/tests/lib/crypt.sh"
# shellcheck source=tests/lib/zfs.sh
source "$root/tests/lib/zfs.sh"

dir=$mnt/ext4

# --- tests -------------------------------------------------------------------

# known CIPHER [BITS]: written here and read by QEMU, written by QEMU and read here.
known() {
	bits=${2-} luks "$dir/known" 4M "$1"
	model a 4M
	attach_luks a "$dir/known"
	run_io a -j 2 -n 60
	detach a
	good_crypt "$dir/known" "$tmp/model.a"
	qemu-io "${secret[@]}" --image-opts "$(qemu_opts "$dir/known")" \
		-c 'write -P 0xa5 64k 192k' -c 'write -P 0x5a 1M 4k' >/dev/null
	qemu-io -f raw -c 'write -P 0xa5 64k 192k' -c 'write -P 0x5a 1M 4k' \
		"$tmp/model.a" >/dev/null
	attach_luks a "$dir/known"
	run_io a -v
	detach a
}

# io MAKE IMAGE OPTION...: mixed I/O of both sides in turn.
io() {
	local make=$1 image=$2

	shift 2
	model a 24M
	"$make" "$image" 24M "$@"
	both_write "$image"
}

both_write() {
	local image=$1 _ options=(aes "$key")

	[[ $key == *aes ]] || options=(luks "$cipher" "$key")
	for _ in 1 2; do
		attach a "$image" "${options[@]}"
		run_io a -j 4 -t "$(few 2 1)" -z
		detach a
		good_crypt "$image" "$tmp/model.a"
		qemu-io "${secret[@]}" --image-opts "$(qemu_opts "$image")" \
			-c "write -P $((RANDOM % 256)) 1M 700k" >/dev/null
		qemu-img convert -n "${secret[@]}" --image-opts "$(qemu_opts "$image")" \
			--target-image-opts "driver=raw,file.filename=$tmp/model.a"
	done
}

luks_xts() {
	luks "$1" "$2" aes-xts-plain64 "${@:3}"
}

# A base under its own key, a plain base, and an image over both.
test_layers() {
	local base_key top_key

	model base 8M
	luks "$dir/base" 8M aes-cbc-essiv:sha256
	keyctl padd logon vm:base @u <"$tmp/key" >/dev/null
	base_key=:$(stat -c %s "$tmp/key"):logon:vm:base
	attach base "$dir/base" luks "$cipher" "$base_key"
	run_io base -j 2 -t 1
	detach base
	cp "$tmp/model.base" "$tmp/model.a"
	truncate -s 12M "$tmp/model.a"
	luks "$dir/top" 12M aes-xts-plain64 "backing_file=$dir/base" backing_fmt=qcow2
	top_key=$key
	attach a "$dir/top" luks "$cipher" "$top_key" \
		backing qcow2 "$dir/base" luks aes-cbc-essiv:sha256 "$base_key"
	run_io a -j 4 -t 2 -z
	detach a
	attach a "$dir/top" luks "$cipher" "$top_key" \
		backing qcow2 "$dir/base" luks aes-cbc-essiv:sha256 "$base_key"
	run_io a -v
	detach a
}

# refused WORDS LINE: the table is not taken, and the reason is said.
refused() {
	read_log
	fails dmsetup create a --table "$2"
	kernel_says "$1"
}

test_keys() {
	local line type

	aes "$dir/keys" 4M
	luks "$dir/keys" 4M aes-xts-plain64
	line="0 $(sectors "$dir/keys") qcow2 $dir/keys"
	refused 'LUKS.*give its cipher and key' "$line"
	refused 'LUKS.*give its cipher and key' "$line 2 aes :16:user:vm:aes"
	refused 'legacy AES encryption has 16 bytes' "$line 2 aes $key"
	refused 'no such key' "$line 3 luks aes-xts-plain64 :64:logon:vm:none"
	refused 'no such key' "$line 3 luks aes-xts-plain64 :64:user:vm:key"
	refused 'another length' "$line 3 luks aes-xts-plain64 :32:logon:vm:key"
	refused 'a key is given as' "$line 3 luks aes-xts-plain64 vm:key"
	refused 'a key is given as' "$line 3 luks aes-xts-plain64 :64:asymmetric:x"
	refused 'a key is given as' "$line 3 luks aes-xts-plain64 :9999:logon:x"
	refused 'a cipher is given as' "$line 3 luks aes $key"
	refused 'a cipher is given as' "$line 3 luks aes-xts-lmk $key"
	refused 'no cipher xts\(des3_foo\)' "$line 3 luks des3_foo-xts-plain64 $key"
	head -c 20 /dev/urandom | keyctl padd logon vm:short @u >/dev/null
	refused 'does not take this key' \
		"$line 3 luks aes-xts-plain64 :20:logon:vm:short"
	modprobe encrypted-keys || true
	head -c 32 /dev/urandom | keyctl padd user vm:master @u >/dev/null
	for type in user logon encrypted; do
		case $type in
		encrypted)
			keyctl add encrypted vm:gone 'new user:vm:master 64' @u ;;
		*) keyctl padd $type vm:gone @u <"$tmp/key" ;;
		esac >"$tmp/gone"
		keyctl revoke "$(cat "$tmp/gone")"
		refused 'revoked|no such key' \
			"$line 3 luks aes-xts-plain64 :64:$type:vm:gone"
	done
	create "$dir/plain" 4M
	refused 'not encrypted' \
		"0 $(sectors "$dir/plain") qcow2 $dir/plain 3 luks aes-xts-plain64 $key"
}

# The key itself is nowhere to be seen; a reload needs it no more.
test_reference() {
	local hex wrong

	luks "$dir/keys" 4M aes-xts-plain64
	hex=$(od -A n -v -t x1 "$tmp/key" | tr -d ' \n')
	attach_luks a "$dir/keys"
	keyctl purge -s logon vm:key >/dev/null
	[[ $(dmsetup table --showkeys a) == *"luks aes-xts-plain64 $key" ]]
	dmsetup table --showkeys a | dmsetup load a
	dmsetup suspend a
	dmsetup resume a
	for wrong in "$(dmsetup table --showkeys a)" "$(dmsetup status a)" \
		"$(dmesg)" "$(cat /proc/keys)"; do
		[[ $wrong != *"${hex:0:16}"* ]] || fail "the key: $wrong"
	done
	fails dmsetup create b --table "$(table "$dir/keys" read_only \
		luks aes-xts-plain64 :64:logon:vm:other)"
	kernel_says 'another cipher or key'
	detach a
	fails attach_luks a "$dir/keys"
	kernel_says 'no such key'
}

# A key that the kernel has made and that nobody has seen: what is written with it
# is read with it, and with no other.
test_sealed() {
	modprobe encrypted-keys || true
	luks "$dir/keys" 4M aes-xts-plain64
	head -c 32 /dev/urandom | keyctl padd user vm:master @u >/dev/null
	keyctl add encrypted vm:sealed 'new user:vm:master 64' @u >/dev/null
	model a 4M
	attach a "$dir/keys" luks aes-xts-plain64 :64:encrypted:vm:sealed
	run_io a -j 2 -n 50
	detach a
	attach a "$dir/keys" luks aes-xts-plain64 :64:encrypted:vm:sealed
	run_io a -v
	detach a
	attach_luks a "$dir/keys"
	fails run_io a -v
	detach a
}

# users DRIVER: how many have it
users() {
	awk -v driver="$1" '$1 == "driver" { mine = $3 == driver }
		$1 == "refcnt" && mine { print $3 }' /proc/crypto
}

# A cipher that answers later, from a queue with room for one request: all others
# wait in its backlog. dm-crypt has it made, and it stays.
test_asynchronous() {
	local driver zeros

	luks "$dir/image" 24M twofish-ctr-plain64
	driver=$(awk '$1 == "name" { mine = $3 == "ctr(twofish)" }
		$1 == "driver" { driver = $3 } $1 == "async" && $3 == "yes" { mine = 0 }
		$1 == "priority" && mine && $3 > best { best = $3; found = driver }
		END { print found }' /proc/crypto)
	[[ $driver ]] || driver='ctr(twofish-generic)'
	modprobe dm-crypt || true
	zeros=$(printf %064d 0)
	dmsetup create b --table \
		"0 8 crypt capi:cryptd($driver)-plain64 $zeros 0 /dev/vdc 0"
	attach_luks a "$dir/image"
	(($(users "cryptd($driver)") > 1)) || fail "$(cat /proc/crypto)"
	dmsetup remove b
	(($(users "cryptd($driver)") > 1)) || fail "$(cat /proc/crypto)"
	detach a
	model a 24M
	both_write "$dir/image"
}

test_wipe() {
	luks "$dir/keys" 4M aes-xts-plain64
	model a 4M
	attach_luks a "$dir/keys"
	run_io a -j 2 -n 50
	fails dmsetup message a 0 key wipe
	kernel_says 'suspend the device first'
	dmsetup suspend a
	dmsetup message a 0 key wipe
	fails dmsetup resume a
	kernel_says 'key has been wiped'
	fails dmsetup message a 0 resize 8388608
	kernel_says 'resize: the key has been wiped'
	head -c 64 /dev/urandom | keyctl padd logon vm:false @u >/dev/null
	fails dmsetup message a 0 key set :64:logon:vm:false
	kernel_says 'not the key that the image was attached with'
	fails dmsetup resume a
	keyctl padd logon vm:again @u <"$tmp/key" >/dev/null
	dmsetup message a 0 key set :64:logon:vm:again
	dmsetup resume a
	[[ $(dmsetup table a) == *:64:logon:vm:again ]]
	run_io a -v
	run_io a -j 2 -n 50
	detach a
	good_crypt "$dir/keys" "$tmp/model.a"
	create "$dir/plain" 4M
	attach a "$dir/plain"
	dmsetup suspend a
	fails dmsetup message a 0 key wipe
	kernel_says 'not encrypted'
	dmsetup resume a
	detach a
}

# in_keyrings WORDS
in_keyrings() {
	grep -q "$1" /proc/keys
}

# Passphrase to device with the tool alone, and QEMU reads what it has made.
test_tool() {
	local image=$1 status=0

	echo -n "$phrase" >"$tmp/phrase"
	echo -n wrong >"$tmp/wrong"
	"$root/build/qcow2setup" create --encrypt luks --pbkdf-force-iterations 1000 \
		--force --key-file "$tmp/phrase" "$image" 8M
	model a 8M
	"$root/build/qcow2setup" open --key-file "$tmp/wrong" "$image" a ||
		status=$?
	((status == 2)) || fail "a wrong passphrase: exit status $status"
	"$root/build/qcow2setup" open --key-file "$tmp/phrase" "$image" a
	! in_keyrings qcow2setup: || fail "$(cat /proc/keys)"
	run_io a -j 4 -t 1 -z
	"$root/build/qcow2setup" resize a 12M
	truncate -s 12M "$tmp/model.a"
	run_io a -j 4 -t 1 -z
	"$root/build/qcow2setup" close a
	good_crypt "$image" "$tmp/model.a"
	echo -n second >"$tmp/second"
	"$root/build/qcow2setup" luksAddKey --key-file "$tmp/phrase" \
		--new-key-file "$tmp/second" --pbkdf-force-iterations 1000 "$image"
	"$root/build/qcow2setup" luksKillSlot "$image" 0
	fails "$root/build/qcow2setup" open --key-file "$tmp/phrase" "$image" a
	"$root/build/qcow2setup" open --key-file "$tmp/second" "$image" a
	run_io a -v
	"$root/build/qcow2setup" close a
}

# A new image that is not encrypted over one that is.
test_tool_over() {
	local over=driver=qcow2,file.filename=$dir/over

	over+=,backing.driver=qcow2,backing.file.filename=$dir/tool
	over+=,backing.encrypt.key-secret=s
	echo -n "$phrase" >"$tmp/phrase"
	"$root/build/qcow2setup" create --encrypt luks --pbkdf-force-iterations 1000 \
		--force --key-file "$tmp/phrase" "$dir/tool" 8M
	model a 8M
	"$root/build/qcow2setup" open --key-file "$tmp/phrase" "$dir/tool" a
	run_io a -j 2 -t 1 -z
	"$root/build/qcow2setup" close a
	"$root/build/qcow2setup" create --force --backing "$dir/tool" \
		--backing-format qcow2 "$dir/over"
	"$root/build/qcow2setup" open --key-file "$tmp/phrase" "$dir/over" a
	run_io a -v
	run_io a -j 2 -t 1 -z
	"$root/build/qcow2setup" close a
	qemu-img check -q "${secret[@]}" --image-opts "$over"
	qemu-img compare "${secret[@]}" --image-opts "$over" \
		"driver=raw,file.filename=$tmp/model.a"
}

# A legacy image, by passphrase.
test_tool_aes() {
	aes "$dir/tool" 8M
	keyctl purge -s user vm:aes >/dev/null
	model a 8M
	echo -n "$phrase" >"$tmp/phrase"
	"$root/build/qcow2setup" open --key-file "$tmp/phrase" "$dir/tool" a
	run_io a -j 4 -t 1 -z
	"$root/build/qcow2setup" close a
	good_crypt "$dir/tool" "$tmp/model.a"
}

stamp=never-to-be-seen-on-the-host-

# Writes stamps and takes some back.
write_stamps() {
	local n at

	head -c 1M >"$tmp/scratch/stamps" < <(yes "$stamp")
	for ((n = 0; n < $1; n++)); do
		at=$((RANDOM % 80))
		dd if="$tmp/scratch/stamps" of=/dev/mapper/a bs=$((512 << RANDOM % 8)) \
			seek=$((RANDOM % 500)) count=$((1 + RANDOM % 4)) \
			oflag=direct conv=notrunc || return 1
		case $((RANDOM % 4)) in
		0) blkdiscard -o $((at * 65536)) -l 262144 /dev/mapper/a || true ;;
		1) blkdiscard -z -o $((at * 65536 + 512)) -l 66048 /dev/mapper/a || true ;;
		2) sync /dev/mapper/a || true ;;
		esac
	done &>/dev/null
}

no_stamps() {
	local found

	found=$(LC_ALL=C grep -c -a -F "$stamp" "$1") || true
	((found == 0)) || fail "$found places of $1 have plaintext"
}

# A copy in between is what a crash would have left.
test_plaintext() {
	local i

	mkdir -p "$tmp/scratch"
	luks "$dir/scan" 32M aes-xts-plain64 "$@"
	for ((i = 0; i < $(few 6 2); i++)); do
		attach_luks a "$dir/scan"
		write_stamps 40 &
		io=$!
		sleep "0.$((RANDOM % 9 + 1))"
		cp --sparse=always "$dir/scan" "$dir/cut"
		wait "$io"
		detach a
		sync
		no_stamps "$dir/scan"
		no_stamps "$dir/cut"
	done
	attach_luks a "$dir/scan"
	dd if="$tmp/scratch/stamps" of=/dev/mapper/a bs=1M count=1 oflag=direct
	dd if=/dev/mapper/a bs=1M count=1 iflag=direct | cmp - "$tmp/scratch/stamps"
	detach a
	# the scan can find something
	create "$dir/plain" 4M
	attach a "$dir/plain"
	dd if="$tmp/scratch/stamps" of=/dev/mapper/a bs=64k count=1 oflag=direct
	detach a
	fails no_stamps "$dir/plain"
}

# --- integrity ---------------------------------------------------------------

# damage IMAGE FROM TO: every other 64 KiB of the file, in MiB. Tables come first.
damage() {
	local n

	for ((n = $2 * 16; n < $3 * 16; n += 2)); do
		dd if=/dev/urandom of="$1" bs=64k count=1 conv=notrunc seek=$n \
			status=none
	done
}

# scrub: sets $scrubbed to what came of it.
scrub() {
	pool_of guest zpool scrub guest
	until_ok 300 scrub_done
	scrubbed=$(pool_of guest zpool status guest)
	echo "$scrubbed"
}

scrub_done() {
	pool_of guest zpool status guest | grep -q 'scrub.* completed\|scrub repaired'
}

# ZFS over three encrypted images, one of which is damaged, finds and heals it.
test_raidz() {
	local n keys=()

	trap 'zfs_down guest' EXIT
	for n in 0 1 2; do
		luks "$dir/z$n" 96M aes-xts-plain64
		keyctl padd logon "vm:z$n" @u <"$tmp/key" >/dev/null
		keys[n]=:64:logon:vm:z$n
		attach z$n "$dir/z$n" luks "$cipher" "${keys[n]}"
	done
	mkdir -p "$mnt/guest"
	zfs_up guest
	pool_of guest zpool create -f -o cachefile=none -m "$mnt/guest" guest \
		raidz /dev/mapper/z0 /dev/mapper/z1 /dev/mapper/z2
	dd if=/dev/urandom of="$mnt/guest/file" bs=1M count=30
	sha256sum "$mnt/guest/file" >"$tmp/sum"
	pool_of guest zpool export guest
	for n in 0 1 2; do
		detach z$n
	done
	damage "$dir/z1" 6 20
	for n in 0 1 2; do
		attach z$n "$dir/z$n" luks "$cipher" "${keys[n]}"
	done
	pool_of guest zpool import -o cachefile=none -d /dev/mapper guest
	scrub
	awk '$1 ~ /z1$/ { exit !($5 + 0) } $1 ~ /z[02]$/ && $5 + 0 { exit 1 }' \
		<<<"$scrubbed" || fail "not seen, or not where it was"
	sha256sum -c "$tmp/sum"
	pool_of guest zpool clear guest
	scrub
	awk '$1 ~ /z[012]$/ { n++; if ($3 + $4 + $5) exit 1 } END { exit n != 3 }' \
		<<<"$scrubbed" || fail "not healed"
	sha256sum -c "$tmp/sum"
	zfs_down guest
	for n in 0 1 2; do
		detach z$n
		qemu-img check -q "${secret[@]}" --image-opts "$(qemu_opts "$dir/z$n")"
	done
}

# What is damaged below reads as nonsense; with dm-integrity above, not at all.
test_integrity() {
	local integrity=(--integrity sha256)

	modprobe dm-integrity || true
	luks "$dir/image" 64M aes-xts-plain64
	attach_luks a "$dir/image"
	integritysetup format --batch-mode --tag-size 32 "${integrity[@]}" /dev/mapper/a
	integritysetup open "${integrity[@]}" /dev/mapper/a b
	dd if=/dev/urandom of="$tmp/model" bs=1M count=20
	dd if="$tmp/model" of=/dev/mapper/b bs=1M oflag=direct conv=fsync
	integritysetup close b
	detach a
	damage "$dir/image" 12 16
	attach_luks a "$dir/image"
	dd if=/dev/mapper/a of=/dev/null bs=1M
	integritysetup open "${integrity[@]}" /dev/mapper/a b
	# through the page cache: direct I/O leaves nonsense where it says "error"
	dd if=/dev/mapper/b of="$tmp/read" bs=4k count=5120 conv=noerror,sync \
		2>"$tmp/dd.log" || true
	grep -q 'error reading' "$tmp/dd.log" || fail "nothing was noticed"
	# no sector is another one
	{ cmp -l "$tmp/model" "$tmp/read" || true; } |
		awk '$3 != 0 { exit 1 }' || fail "nonsense was read"
	rm "$tmp/model" "$tmp/read"
	integritysetup close b
	detach a
}

# Before anything else has it loaded.
modprobe cryptd cryptd_max_cpu_qlen=1 || true
host_fs ext4 /dev/vda
modprobe -a xts ctr essiv ecb cast5_generic serpent_generic twofish_generic \
	algif_skcipher 2>/dev/null || true
# all that QEMU writes: with blocks of 64 bits there is no xts, and no key is as long
# as a hash
for name in {aes,serpent,twofish}-{xts,cbc}-{plain64,plain,essiv:sha256} \
	cast5-cbc-{plain64,plain} \
	{aes,serpent,twofish,cast5}-{ctr-plain64,ctr-plain,ecb-plain64}; do
	try "known answers: $name" known "$name"
done
for name in aes-xts-plain64 aes-cbc-essiv:sha256 aes-ctr-plain64; do
	# with 192 QEMU aborts when it makes the image
	try "known answers: $name, 128 bits" known "$name" 128
done
try "I/O: LUKS in a file" io luks_xts "$dir/image"
try "I/O: LUKS, small clusters" io luks_xts "$dir/image" cluster_size=4k
try "I/O: LUKS, extended L2" io luks_xts "$dir/image" extended_l2=on
try "I/O: LUKS on a device" io luks_xts /dev/vdb
try "I/O: LUKS on a device with sectors of 4096" io luks_xts /dev/vdc
try "I/O: AES in a file" io aes "$dir/image"
try "I/O: AES on a device" io aes /dev/vdb cluster_size=4k
try "I/O: an asynchronous cipher" test_asynchronous
try "layers with keys of their own" test_layers
try "keys that are none" test_keys
try "a key is a reference" test_reference
try "a key of the kernel's own" test_sealed
try "key wipe, key set" test_wipe
try "the tool: LUKS" test_tool "$dir/tool"
try "the tool: LUKS on a device" test_tool /dev/vdb
try "the tool: over an encrypted image" test_tool_over
try "the tool: AES" test_tool_aes
try "no plaintext" test_plaintext
try "no plaintext, extended L2" test_plaintext extended_l2=on
try "ZFS heals what was damaged" test_raidz
try "dm-integrity above" test_integrity
finish
