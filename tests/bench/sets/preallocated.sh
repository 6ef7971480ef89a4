# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
#
# Every cluster has its place, as preallocation=metadata gives it, and none has been
# written: a hole of the file. The raw file is one hole, too. All is made anew for
# each round; writes are counted, as in the set "empty".

mib=512
memory=3072
anew=yes
clocks=(wall)
contenders=(loop file nbd linear block)
workloads=(randread-4k-32 read-512k-8 randwrite-4k-1 randwrite-4k-32
	write-512k-8)

make_images() {
	truncate -s "${mib}M" "$1/raw"
	qemu-img create -q -f qcow2 -o preallocation=metadata "$1/qcow2" "${mib}M"
}

fill() {
	if [[ $1 == qcow2 ]]; then
		dd if="$images/qcow2" of="$2" bs=1M conv=notrunc,fsync,sparse \
			status=none
		[[ -b $2 ]] || truncate -r "$images/qcow2" "$2"
	elif [[ ! -b $2 ]]; then
		truncate -s "${mib}M" "$2"
	fi
}

job() {
	case $1 in
	*read*) printf '%s\n' "size=${mib}M" time_based "runtime=${msec}ms" ;;
	randwrite-4k-1) printf '%s\n' offset=0 size=128M number_ios=2048 ;;
	randwrite-4k-32) printf '%s\n' offset=128M size=128M number_ios=2048 ;;
	*) printf '%s\n' offset=256M size=128M ;;
	esac
}
