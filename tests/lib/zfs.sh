# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# ZFS in user space; sourced by suites of the guest, after their lib.sh.

# pool_of PLACE COMMAND...: each place has a daemon of its own, or one that writes
# to a pool whose image it holds itself would wait for itself. They are told apart
# by where their socket and lock are.
pool_of() {
	ln -sfn "$tmp/zfs.$1" /run/zfs
	ln -sfn "$tmp/zfs.$1" /run/lock/zfs
	shift
	"$@"
}

# The daemon is not to be what is killed when memory is short, as in Debian's own
# script.
zfs_up() {
	local place=$1

	[[ ! -e $tmp/zfs.$place ]] || return 0
	modprobe fuse || true
	mkdir -p /run/lock "$tmp/zfs.$place"
	pool_of "$place" exec zfs-fuse --no-kstat-mount -n -m 16 &>"$tmp/zfs.log" &
	echo $! >"$tmp/zfs.$place/daemon"
	until_ok 30 pool_of "$place" zpool list
	echo -1000 >"/proc/$(<"$tmp/zfs.$place/daemon")/oom_score_adj"
}

# zfs_down PLACE: also when a test has failed.
zfs_down() {
	local daemon=$tmp/zfs.$1/daemon

	[[ -e $daemon ]] || return 0
	! pool_of "$1" zpool list "$1" || pool_of "$1" zpool export -f "$1"
	kill "$(<"$daemon")"
	wait "$(<"$daemon")" || true
	rm -r "$tmp/zfs.$1"
}
