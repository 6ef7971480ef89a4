# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Encrypted images, made and read by QEMU; sourced by suites of the guest, after
# their lib.sh.

# shellcheck source=tests/lib/qemu.sh
source "$root/tests/lib/qemu.sh"

phrase=correct-horse
secret=(--object "secret,id=s,data=$phrase")

# qemu_opts IMAGE
qemu_opts() {
	local driver=file

	[[ ! -b $1 ]] || driver=host_device
	echo "driver=qcow2,file.driver=$driver,file.filename=$1,encrypt.key-secret=s"
}

# luks IMAGE SIZE CIPHER [OPTION]...: as QEMU makes it; sets $cipher and $key, and
# has the key in the keyring. The volume key comes from cryptsetup, the header's
# only other reader. $bits is the length of an AES key, 256 unless set.
luks() {
	local image=$1 size=$2 alg mode iv hash at

	IFS=- read -r alg mode iv <<<"$3"
	cipher=$3
	shift 3
	[[ $iv != essiv:* ]] || { hash=${iv#*:}; iv=essiv; }
	case $alg in
	aes) alg=aes-${bits:-256} ;;
	serpent | twofish) alg=$alg-256 ;;
	cast5) alg=cast5-128 ;;
	esac
	[[ -b $image ]] || rm -f "$image"
	qemu_create -u -f qcow2 "${secret[@]}" \
		-o "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=300" \
		-o "encrypt.cipher-alg=$alg,encrypt.cipher-mode=$mode" \
		-o "encrypt.ivgen-alg=${iv:-plain64}${hash+,encrypt.ivgen-hash-alg=$hash}" \
		${1+-o "$(IFS=,; echo "$*")"} "$image" "$size"
	at=$(head -c 4M "$image" | LC_ALL=C grep -abo $'LUKS\xba\xbe' | head -n 1)
	rm -f "$tmp/header" "$tmp/key"
	dd if="$image" of="$tmp/header" bs=512 skip=$((${at%%:*} / 512)) \
		count=16384 status=none
	# an IV there is none of, which QEMU names and cryptsetup refuses
	[[ $mode != ecb ]] ||
		poke "$tmp/header" 43 0000000000000000
	cryptsetup luksDump -q --dump-volume-key --volume-key-file "$tmp/key" \
		--key-file <(echo -n "$phrase") "$tmp/header" >/dev/null
	keyctl padd logon vm:key @u <"$tmp/key" >/dev/null
	key=:$(stat -c %s "$tmp/key"):logon:vm:key
}

# aes IMAGE SIZE [OPTION]...: the legacy encryption, the same way
aes() {
	local image=$1 size=$2

	shift 2
	[[ -b $image ]] || rm -f "$image"
	qemu-img create -q -f qcow2 "${secret[@]}" \
		-o "encrypt.format=aes,encrypt.key-secret=s${1+,$(IFS=,; echo "$*")}" \
		"$image" "$size"
	printf '%s\0\0\0' "$phrase" | head -c 16 | keyctl padd user vm:aes @u >/dev/null
	key=:16:user:vm:aes
}

# good_crypt IMAGE MODEL: no errors, no leaks, and what QEMU reads is the model's.
good_crypt() {
	qemu-img check -q "${secret[@]}" --image-opts "$(qemu_opts "$1")"
	qemu-img compare "${secret[@]}" --image-opts "$(qemu_opts "$1")" \
		"driver=raw,file.filename=$2"
}

attach_luks() {
	attach "$1" "$2" luks "$cipher" "$key" "${@:3}"
}
