# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# Every cluster is there and encrypted, with the same cipher as dm-crypt beside it.

mib=64
memory=3072
contenders=(inline luks luksnbd)
declare -A against=([luks]=inline [luksnbd]=inline)
workloads=(randread-4k-1 randread-4k-32 randwrite-4k-1 randwrite-4k-32
	read-512k-1 read-512k-32 write-512k-1 write-512k-32
	rw-4k-1-psync)

make_images() {
	local at target

	echo -n secret >"$1/phrase"
	build/qcow2setup create --encrypt luks --pbkdf-force-iterations 1000 \
		--key-file "$1/phrase" "$1/qcow2" "${mib}M"
	head -c "${mib}M" /dev/urandom >"$1/raw"
	target=driver=qcow2,file.filename=$1/qcow2,encrypt.key-secret=s
	qemu-img convert -q -n -f raw --object "secret,id=s,file=$1/phrase" \
		--target-image-opts "$1/raw" "$target"
	at=$(head -c 4M "$1/qcow2" | LC_ALL=C grep -abo $'LUKS\xba\xbe' | head -n 1)
	dd if="$1/qcow2" of="$1/header" bs=512 skip=$((${at%%:*} / 512)) \
		count=16384 status=none
	cryptsetup luksDump -q --dump-volume-key --volume-key-file "$1/key" \
		--key-file "$1/phrase" "$1/header" >/dev/null
}

fill() {
	dd if="$images/$1" of="$2" bs=1M conv=notrunc,fsync status=none
}

job() {
	printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms"
}
