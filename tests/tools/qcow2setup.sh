#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The suite of qcow2setup as far as it needs no kernel module: info and table
# on images of every kind and on what only pretends to be one, as an ordinary
# user; exit statuses; messages; JSON.

set -euo pipefail

if [[ ${1-} == --help ]]; then
	cat <<-EOF
	Usage: tests/tools/qcow2setup.sh

	Test \$QCOW2SETUP (default: build/qcow2setup). Prints TAP.
	EOF
	exit
fi

cd "$(dirname "$(readlink -f "$0")")/../.."
tool=$(readlink -f "${QCOW2SETUP:-build/qcow2setup}")
tmp=$(mktemp -d)
count=0 failed=0 status=0 holder=''

clean_up() {
	[[ ! $holder ]] || kill "$holder" 2>/dev/null || true
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
	timeout 10 "${as_user[@]}" ./qcow2setup "$@" >"$tmp/stdout" \
		2>"$tmp/stderr" </dev/null || status=$?
}

# ok NAME COMMAND...: a test that passes if the command succeeds.
ok() {
	local name=$1

	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $name"
	else
		failed=$((failed + 1))
		echo "not ok $name"
		printf '# %s\n' "failed: $*" "exit status $status"
		head -n 40 stdout | sed 's/^/# stdout: /'
		head -n 40 stderr | sed 's/^/# stderr: /'
	fi
}

silent() {
	"$@" >/dev/null
}

both() {
	"$1" "$2" && "$3" "$4"
}

says() {
	grep -qF -- "$1" stdout
}

complains() {
	[[ ! -s stdout ]] && grep -qF -- "$1" stderr
}

# fails STATUS TEXT: nothing on stdout, one sentence on stderr.
fails() {
	((status == $1)) && complains "$2"
}

succeeds() {
	((status == 0)) && [[ -s stdout && ! -s stderr ]]
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
	qemu-img create -q -f qcow2 "$@" "$name" 64M
}

# poke FILE OFFSET HEX...: overwrite bytes.
poke() {
	local file=$1 offset=$2

	shift 2
	printf '%b' "${@/#/\\x}" |
		dd of="$file" bs=1 seek="$offset" conv=notrunc status=none
}

# What info says must be what QEMU says, in JSON and in words.
agrees_with_qemu() {
	local image=$1

	qemu-img info -U --output=json "$image" >qemu.json
	run info --json "$image"
	succeeds || return
	is "$(json stdout 'o["virtual_size"], o["cluster_size"]')" \
		"$(json qemu.json 'o["virtual-size"], o["cluster-size"]')" ||
		return
	is "$(json stdout 'o["backing_file"], o["snapshots"]')" \
		"$(json qemu.json 'o.get("backing-filename"),
			len(o.get("snapshots", []))')" || return
	is "$(json stdout 'o["refcount_bits"], o["host"]["allocated"]')" \
		"$(json qemu.json 'o["format-specific"]["data"].get(
			"refcount-bits", 16), o["actual-size"]')" || return
	run info "$image"
	succeeds
}

# What can be attached read-write, read-only, or not at all.
test_kinds() {
	local name

	for name in plain v2 c512 c2m r1 r64 lazy; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-write" says 'attach:              read-write'
		run table $name.qcow2
		ok "table $name" is "$(cat stdout)" "0 131072 qcow2 $tmp/$name.qcow2"
	done
	for name in dirty corrupt snapshot bitmap; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-only" says 'attach:              read-only: '
		run table $name.qcow2
		ok "table $name" fails 4 'Give --readonly'
		run table --readonly $name.qcow2
		ok "table --readonly $name" is "$(cat stdout)" \
			"0 131072 qcow2 $tmp/$name.qcow2 1 read_only"
	done
	for name in overlay luks aes zstd extl2 data; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: not yet" says 'attach:              no: '
		run table --readonly $name.qcow2
		ok "table $name" fails 4 'not supported yet'
	done
}

test_words() {
	run table overlay.qcow2
	ok "names a backing file" complains 'has a backing file'
	run table data.qcow2
	ok "names an external data file" complains 'has an external data file'
	run table luks.qcow2
	ok "names LUKS" complains 'has LUKS encryption'
	run table aes.qcow2
	ok "names AES" complains 'has AES encryption'
	run table zstd.qcow2
	ok "names zstd" complains 'has zstd compression'
	run table extl2.qcow2
	ok "names extended L2" complains 'has extended L2 entries'
	run table dirty.qcow2
	ok "names dirty" complains 'is marked dirty'
	run table corrupt.qcow2
	ok "names corrupt" complains 'is marked corrupt'
	run table snapshot.qcow2
	ok "names snapshots" complains 'has internal snapshots'
	run table bitmap.qcow2
	ok "names bitmaps" complains 'has persistent bitmaps'
	run info overlay.qcow2
	ok "shows the backing format" says 'backing format:      qcow2'
	run info data.qcow2
	ok "shows the data file" says 'data file:           raw.data'
}

test_options() {
	run table --readonly --sector-size 4096 --cache-bytes 2M plain.qcow2
	ok "all options" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/plain.qcow2 5 read_only sector_size 4096 cache_bytes 2097152"
	run table --json plain.qcow2
	ok "table --json" is "$(json stdout 'o["line"], o["sectors"]')" \
		"('0 131072 qcow2 $tmp/plain.qcow2', 131072)"
	run table --read-only plain.qcow2
	ok "--read-only is --readonly" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/plain.qcow2 1 read_only"
	run table --sector-size 4096 odd.qcow2
	ok "whole sectors only" says '0 8 qcow2 '
	run table odd.qcow2
	ok "all sectors of 512 bytes" says '0 13 qcow2 '
	run table --sector-size 4096 small.qcow2
	ok "not one sector" fails 4 'do not fill a sector'
	run table zero.qcow2
	ok "no size" fails 4 'has no virtual size'
}

test_usage() {
	run
	ok "no action" fails 1 '--help'
	run fly
	ok "unknown action" fails 1 "no action 'fly'"
	run table
	ok "no image" fails 1 'Usage: qcow2setup table'
	run table a b
	ok "too many arguments" fails 1 'Usage: qcow2setup table'
	run table --deferred plain.qcow2
	ok "option of another action" fails 1 "does not take --deferred"
	run table --fly plain.qcow2
	ok "unknown option" is $status 1
	run table --sector-size 1024 plain.qcow2
	ok "bad sector size" fails 1 '512 or 4096'
	run table --cache-bytes 0 plain.qcow2
	ok "bad cache size" fails 1 'number of bytes'
	run table --cache-bytes 18446744073709551615K plain.qcow2
	ok "cache size too large" fails 1 'number of bytes'
	run --help
	ok "--help" both succeeds '' says 'Usage: qcow2setup'
	run --version
	ok "--version" both succeeds '' says 'qcow2setup '
	if [[ -c /dev/full ]]; then
		status=0
		./qcow2setup info plain.qcow2 >/dev/full 2>stderr || status=$?
		: >stdout
		ok "a full disk is no success" fails 1 'cannot be written'
	fi
}

# What is no image, and what must not hang.
test_files() {
	run info nothing.qcow2
	ok "nothing there" fails 4 'does not exist'
	run info empty
	ok "empty" fails 4 'is empty'
	run info fifo
	ok "FIFO" fails 4 'is a FIFO'
	run info .
	ok "directory" fails 4 'is a directory'
	run info /dev/null
	ok "character device" fails 4 'is a character device'
	run info garbage
	ok "garbage" fails 4 'not a qcow2 image'
	run info short
	ok "four bytes" fails 4 'is damaged'
	run info header
	ok "header only" fails 4 "truncated? 'qemu-img check'"
	if ((${#as_user[@]})); then
		run info secret.qcow2
		ok "no permission" fails 2 'No permission'
	fi
	run info ./link.qcow2
	ok "symbolic link keeps its name" says "$tmp/link.qcow2"
}

# Headers that a careless reader would follow.
test_hostile() {
	local bits

	run info escape.qcow2
	ok "control characters are escaped" says 'backing file:        \x1b[31m\x0d'
	ok "no control character is printed" is \
		"$(LC_ALL=C tr -d '\n -~' <stdout | wc -c)" 0
	run info --json escape.qcow2
	ok "control characters in JSON" is \
		"$(json stdout 'o["backing_file"][:6].encode()')" "b'\\x1b[31m\\r'"
	run info latin.qcow2
	ok "what is not UTF-8 is escaped" says 'backing file:        \xff\xfe'
	run info --json latin.qcow2
	ok "what is not UTF-8, in JSON" is \
		"$(json stdout 'ascii(o["backing_file"][:2])')" "'\\ufffd\\ufffd'"
	run table escape.qcow2
	ok "an error has no control character" is \
		"$(LC_ALL=C tr -d '\n -~' <stderr | wc -c)" 0
	run info unknown.qcow2
	ok "unknown incompatible feature" fails 4 'incompatible feature bit 7'
	run info compat.qcow2
	ok "unknown compatible feature" says 'unknown compatible bit 40'
	for bits in 08 16 ff; do
		cp plain.qcow2 bits.qcow2
		poke bits.qcow2 23 $bits
		run info bits.qcow2
		ok "cluster_bits 0x$bits" fails 4 'cluster_bits'
	done
	run info hugel1.qcow2
	ok "an L1 table beyond the limit" fails 4 'L1 table'
	run info far.qcow2
	ok "an L1 table beyond the file" fails 4 'L1 table'
	run info extension.qcow2
	ok "an extension without end" fails 4 'do not fit'
	run info v9.qcow2
	ok "version 9" fails 4 'version 9'
}

test_random() {
	local i seed=${SEED:-$RANDOM} bad=''

	RANDOM=$seed
	for ((i = 0; i < 60; i++)); do
		cp bitmap.qcow2 fuzz.qcow2
		poke fuzz.qcow2 $((4 + RANDOM % 300)) \
			"$(printf %02x $((RANDOM % 256)))"
		run info --json fuzz.qcow2
		if ((status != 0 && status != 4)); then
			bad+=" $i:$status"
		elif ((status == 0)) && ! json stdout 1 >/dev/null; then
			bad+=" $i:json"
		fi
	done
	ok "60 headers with a random byte (SEED=$seed)" is "$bad" ""
}

# At most 64 KiB are read, and no file but the image is opened.
test_reads() {
	if ! command -v strace >/dev/null; then
		count=$((count + 1))
		echo "ok reads only the header # SKIP no strace"
		return
	fi
	# the leak checker of an instrumented tool cannot be traced itself
	ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=open,openat,read,pread64 -o trace \
		./qcow2setup info overlay.qcow2 >stdout 2>stderr
	ok "opens no backing file" is "$(grep -c plain trace || true)" 0
	ok "reads only the header" is \
		"$(awk -F '= ' '/pread64.*overlay/ { n += $NF } END { print n }' trace)" 65536
}

# Names that a table line cannot hold as they are.
test_paths() {
	local line

	mkdir 'a b'
	cp plain.qcow2 $'a b/tab\there\\x.qcow2'
	run table $'a b/tab\there\\x.qcow2'
	ok "space, tab and backslash in a path" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/"'a\040b/tab\011here\134x.qcow2'
	# the kernel takes the second byte of this letter for a space
	cp plain.qcow2 $'\xc3\xa0.qcow2'
	run table $'\xc3\xa0.qcow2'
	line=$(cat stdout)
	ok "0xa0 in a path" is "$line" "0 131072 qcow2 $tmp/"$'\xc3''\240.qcow2'
	cp plain.qcow2 $'new\nline.qcow2'
	run table $'new\nline.qcow2'
	ok "newline in a path" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/"'new\012line.qcow2'
	run info $'new\nline.qcow2'
	ok "info shows it on one line" says 'new\x0aline.qcow2'
	run table ././plain.qcow2
	ok "relative path" says " $tmp/plain.qcow2"
}

hold() {
	"$@" >/dev/null 2>&1 &
	holder=$!
	for _ in {1..100}; do
		run info --json plain.qcow2
		[[ $(json stdout 'o["host"]["lock"]') == none ]] || break
		sleep 0.1
	done
}

release() {
	kill "$holder"
	wait "$holder" 2>/dev/null || true
	holder=''
}

test_locks() {
	run info plain.qcow2
	ok "nobody has it" says 'in use by:           nobody'
	hold qemu-nbd -f qcow2 -k "$tmp/socket" -t plain.qcow2
	run info plain.qcow2
	ok "a writer has it" says 'in use by:           a writer'
	ok "it can be attached later" says 'read-write, once it is free'
	ok "QEMU's locks are left alone" silent qemu-img info -U plain.qcow2
	release
	hold qemu-nbd -r -f qcow2 -k "$tmp/socket" -t plain.qcow2
	run info plain.qcow2
	ok "a reader has it" says 'in use by:           a reader'
	release
	run info plain.qcow2
	ok "nobody has it any more" says 'in use by:           nobody'
}

# Without a module, or without the right to ask for one.
test_no_module() {
	local action

	for action in 'open plain.qcow2 x' 'close x' status 'status x'; do
		# shellcheck disable=SC2086 # words
		run $action
		if ((${#as_user[@]})); then
			ok "$action as a user" fails 2 'run this as root'
		else
			ok "$action without a module" is $status 1
		fi
	done
	run open plain.qcow2 a/b
	ok "open says that a name is none" fails 1 'cannot be the name'
	run open x plain.qcow2
	ok "open says that the image comes first" fails 4 'The image comes first'
	run open dirty.qcow2 x
	ok "open says that an image is dirty" fails 4 'Give --readonly'
	run open overlay.qcow2 x
	ok "open says that an image has a backing file" fails 4 'backing file'
	run open empty x
	ok "open says that an image is empty" fails 4 'is empty'
}

make_images() {
	local s=(--object 'secret,id=s,data=pass')

	image plain.qcow2
	image v2.qcow2 -o compat=0.10
	image c512.qcow2 -o cluster_size=512
	image c2m.qcow2 -o cluster_size=2M
	image r1.qcow2 -o refcount_bits=1
	image r64.qcow2 -o refcount_bits=64
	image lazy.qcow2 -o lazy_refcounts=on
	image overlay.qcow2 -b plain.qcow2 -F qcow2
	image zstd.qcow2 -o compression_type=zstd
	image extl2.qcow2 -o extended_l2=on
	image data.qcow2 -o data_file=raw.data
	image aes.qcow2 "${s[@]}" -o encrypt.format=aes,encrypt.key-secret=s
	image luks.qcow2 "${s[@]}" \
		-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=300
	image snapshot.qcow2
	qemu-img snapshot -c one snapshot.qcow2
	image bitmap.qcow2
	qemu-img bitmap --add bitmap.qcow2 b0
	cp plain.qcow2 dirty.qcow2
	poke dirty.qcow2 79 01
	cp plain.qcow2 corrupt.qcow2
	poke corrupt.qcow2 79 02
	qemu-img create -q -f qcow2 odd.qcow2 6656
	qemu-img create -q -f qcow2 small.qcow2 1024
	qemu-img create -q -f qcow2 zero.qcow2 0
	cp plain.qcow2 secret.qcow2
	chmod 600 secret.qcow2
	ln -s plain.qcow2 link.qcow2
}

make_hostile() {
	: >empty
	mkfifo fifo
	head -c 100000 /dev/urandom >garbage
	printf 'XX' | dd of=garbage conv=notrunc status=none
	printf 'QFI\xfb' >short
	head -c 512 plain.qcow2 >header
	image escape.qcow2 -u -b ABCDEFGHIJ -F raw
	poke escape.qcow2 "$(grep -abo ABCDEFGHIJ escape.qcow2 | cut -d : -f 1)" \
		1b 5b 33 31 6d 0d 00 0a 07 7f
	image latin.qcow2 -u -b ABCDEFGHIJ -F raw
	poke latin.qcow2 "$(grep -abo ABCDEFGHIJ latin.qcow2 | cut -d : -f 1)" ff fe
	cp plain.qcow2 unknown.qcow2
	poke unknown.qcow2 79 80
	cp plain.qcow2 compat.qcow2
	poke compat.qcow2 82 01
	cp plain.qcow2 hugel1.qcow2
	poke hugel1.qcow2 36 ff ff ff ff
	cp plain.qcow2 far.qcow2
	poke far.qcow2 40 00 00 00 7f
	cp plain.qcow2 extension.qcow2
	poke extension.qcow2 112 12 34 56 78 ff ff ff ff
	cp plain.qcow2 v9.qcow2
	poke v9.qcow2 7 09
}

make_images
make_hostile
for file in *.qcow2 garbage; do
	[[ $file == secret.qcow2 ]] || chmod 644 "$file"
done
test_kinds
test_words
test_options
test_usage
test_files
test_hostile
test_random
test_reads
test_paths
test_locks
test_no_module
echo "1..$count"
((failed == 0))
