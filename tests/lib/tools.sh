# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the suites of tests/tools share: a private directory, qcow2setup in it, run
# as an ordinary user, and tests of what it says. To be sourced by them.

set -euo pipefail

cd "$(dirname "$(readlink -f "$0")")/../.."
tool=$(readlink -f "${QCOW2SETUP:-build/qcow2setup}")
tmp=$(mktemp -d)
# shellcheck source=tests/lib/ok.sh
source tests/lib/ok.sh
# shellcheck source=tests/lib/qemu.sh
source tests/lib/qemu.sh

# A suite has its own to do if it defines this anew.
clean_up_more() {
	:
}

clean_up() {
	clean_up_more
	rm -rf "$tmp"
}
trap clean_up EXIT

# The user must reach tool and images, and must not be able to write to them.
chmod 755 "$tmp"
cp "$tool" "$tmp/qcow2setup"
cd "$tmp"
as_user=()
((UID)) || as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)

# run ARGUMENT...: as an ordinary user, with a time limit for what must not
# hang. Leaves $status, stdout and stderr.
run() {
	status=0
	timeout 10 "${as_user[@]}" "$tmp/qcow2setup" "$@" >"$tmp/stdout" \
		2>"$tmp/stderr" </dev/null || status=$?
}

# run_in DIRECTORY ARGUMENT...: the same with another working directory
run_in() {
	local dir=$1

	shift
	pushd "$dir" >/dev/null
	run "$@"
	popd >/dev/null
}

silent() {
	"$@" >/dev/null
}

both() {
	"$1" "$2" && "$3" "$4"
}

says() {
	grep -qF -- "$1" "$tmp/stdout"
}

complains() {
	[[ ! -s $tmp/stdout ]] && grep -qF -- "$1" "$tmp/stderr"
}

# fails STATUS TEXT: nothing on stdout, one sentence on stderr.
fails() {
	((status == $1)) && complains "$2"
}

succeeds() {
	((status == 0)) && [[ -s $tmp/stdout && ! -s $tmp/stderr ]]
}

is() {
	[[ $1 == "$2" ]]
}

# json FILE EXPRESSION: of the object "o"; nothing if it is not JSON.
json() {
	python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
print(eval("(" + sys.argv[2] + ")"))' "$1" "$2"
}

# image NAME [OPTION]...: an image of 64 MiB.
image() {
	local name=$1

	shift
	qemu_create -f qcow2 "$@" "$name" 64M
}

# poke FILE OFFSET HEX...: overwrite bytes.
poke() {
	local file=$1 offset=$2

	shift 2
	printf '%b' "${@/#/\\x}" |
		dd of="$file" bs=1 seek="$offset" conv=notrunc status=none
}
