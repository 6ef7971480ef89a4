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

# shellcheck source=tests/lib/tools.sh
. "$(dirname "$(readlink -f "$0")")/../lib/tools.sh"
holder=''

clean_up_more() {
	[[ ! $holder ]] || kill "$holder" 2>/dev/null || true
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

	for name in plain v2 c512 c2m r1 r64 lazy zstd extl2 compressed \
		dirty snapshot bitmap; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-write" says 'attach:              read-write'
		run table $name.qcow2
		ok "table $name" is "$(cat stdout)" "0 131072 qcow2 $tmp/$name.qcow2"
	done
	for name in corrupt both; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-only" says 'attach:              read-only: '
		run table $name.qcow2
		ok "table $name" fails 4 'Give --readonly'
		run table --readonly $name.qcow2
		ok "table --readonly $name" is "$(cat stdout)" \
			"0 131072 qcow2 $tmp/$name.qcow2 1 read_only"
	done
	for name in overlay data; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-write" says 'attach:              read-write'
	done
	for name in luks aes; do
		ok "info $name" agrees_with_qemu $name.qcow2
		ok "$name: read-write" says 'attach:              read-write'
		run table $name.qcow2
		ok "table $name" fails 1 'is encrypted, and a table line names its key'
	done
}

test_words() {
	run table luks.qcow2
	ok "names a key" complains 'give --key :64:logon:NAME'
	run table aes.qcow2
	ok "names a shorter key" complains 'give --key :16:logon:NAME'
	run table corrupt.qcow2
	ok "names corrupt" complains 'is marked corrupt'
	run info overlay.qcow2
	ok "shows the backing format" says 'backing format:      qcow2'
	run info data.qcow2
	ok "shows the data file" says 'data file:           raw.data'
}

test_options() {
	run table --readonly --sector-size 4096 --cache-bytes 2M \
		--no-discard-passdown --buffered-backing plain.qcow2
	ok "all options" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/plain.qcow2 7 read_only sector_size 4096 cache_bytes 2097152 no_discard_passdown buffered_backing"
	run table --no-discard-passdown plain.qcow2
	ok "--no-discard-passdown" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/plain.qcow2 1 no_discard_passdown"
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
	run table --backing-format vmdk plain.qcow2
	ok "bad backing format" fails 1 "qcow2 or raw, not 'vmdk'"
	run info --data-file x plain.qcow2
	ok "info --data-file without --chain" fails 1 'leave --data-file out'
	run info --backing-format raw plain.qcow2
	ok "info --backing-format without --chain" fails 1 'or give --chain'
	run status --chain
	ok "--chain is for info" fails 1 "does not take --chain"
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

# bytes_read FILE: as far as the last trace goes
bytes_read() {
	awk -F '= ' -v file="$1>" '/pread64/ && index($0, file) { n += $NF }
		END { print n + 0 }' trace
}

# At most 64 KiB are read of each, and no file but the image is opened unless
# that is asked for.
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
	ok "reads only the header" is "$(bytes_read overlay.qcow2)" 65536
	ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=open,openat,read,pread64 -o trace \
		./qcow2setup info --chain chain/top.qcow2 >stdout 2>stderr
	ok "reads one header of each layer" is \
		"$(bytes_read top.qcow2) $(bytes_read mid.qcow2) $(bytes_read base.raw)" \
		"65536 $(stat -c %s chain/sub/mid.qcow2) 0"
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
	cp plain.qcow2 'disk#1.qcow2'
	run table 'disk#1.qcow2'
	ok "what dmsetup takes for a comment" says "$tmp/"'disk\0431.qcow2'
	run table ././plain.qcow2
	ok "relative path" says " $tmp/plain.qcow2"
}

# A line with its files: table_is IMAGE WORDS OPTION-WORD...
table_is() {
	local image=$1

	shift
	is "$status $(cat stdout)" "0 0 131072 qcow2 $tmp/chain/$image $*"
}

test_chains() {
	local c=$tmp/chain o

	run info --chain plain.qcow2
	ok "a chain of one" says \
		"chain:               $tmp/plain.qcow2: qcow2, 64.0 MiB (67108864 bytes), clusters of 65536 bytes"
	run info plain.qcow2
	ok "no chain unasked" is "$(grep -c chain: stdout || true)" 0
	run info --json plain.qcow2
	ok "no chain unasked, in JSON" is "$(json stdout 'o["chain"]')" None
	o="backing qcow2 $c/sub/mid.qcow2 backing raw $c/sub/../base.raw"
	run table chain/top.qcow2
	ok "relative names begin at the image" table_is top.qcow2 6 "$o"
	run_in chain/sub table ../top.qcow2
	ok "and not at the working directory" is "$(cat stdout)" \
		"0 131072 qcow2 $c/sub/../top.qcow2 6 backing qcow2 $c/sub/../sub/mid.qcow2 backing raw $c/sub/../sub/../base.raw"
	run_in / table "$c/top.qcow2"
	ok "whatever that is" table_is top.qcow2 6 "$o"
	run table --json chain/top.qcow2
	ok "a chain in JSON" is \
		"$(json stdout '[(l["path"], l["format"], l["virtual_size"], l["cluster_size"]) for l in o["chain"]]')" \
		"[('$c/top.qcow2', 'qcow2', 67108864, 65536), ('$c/sub/mid.qcow2', 'qcow2', 33554432, 4096), ('$c/sub/../base.raw', 'raw', 1000, None)]"
	run info --chain chain/top.qcow2
	ok "info --chain" both succeeds '' says \
		"                     $c/sub/mid.qcow2: qcow2, 32.0 MiB (33554432 bytes), clusters of 4096 bytes"
	ok "info --chain of a raw file" says "$c/sub/../base.raw: raw, 1000 bytes"
	run info --chain --json chain/top.qcow2
	ok "info --chain --json" is "$(json stdout \
		'len(o["chain"]), [l["error"] for l in o["chain"]], o["attach"]["mode"]')" \
		"(3, [None, None, None], 'read-write')"
	run table --readonly --sector-size 4096 --buffered-backing chain/top.qcow2
	ok "layers come last" table_is top.qcow2 \
		"10 read_only sector_size 4096 buffered_backing $o"
	run table 'chain/over lay.qcow2'
	ok "spaces in names" table_is 'over\040lay.qcow2' \
		"3 backing qcow2 $c/"'with\040space/base\040\0431.qcow2'
	run table chain/absolute.qcow2
	ok "an absolute name" table_is absolute.qcow2 "3 backing qcow2 $tmp/plain.qcow2"
	run table chain/file.qcow2
	ok "file: before an absolute name" table_is file.qcow2 \
		"3 backing qcow2 $tmp/plain.qcow2"
	run table chain/dot.qcow2
	ok "a colon behind a slash" table_is dot.qcow2 "3 backing qcow2 $c/x:y.qcow2"
	run table chain/emptyraw.qcow2
	ok "an empty raw file" table_is emptyraw.qcow2 "3 backing raw $c/empty"
	run table chain/on-dirty.qcow2
	ok "a dirty image below" table_is on-dirty.qcow2 "3 backing qcow2 $tmp/dirty.qcow2"
	run table chain/on-snapshot.qcow2
	ok "an image with snapshots below" table_is on-snapshot.qcow2 \
		"3 backing qcow2 $tmp/snapshot.qcow2"
	run table --backing-format raw chain/top.qcow2
	ok "--backing-format is not against the header" table_is top.qcow2 6 "$o"
}

# What a chain cannot be made of, by name.
test_bad_chains() {
	local c=$tmp/chain

	run table chain/missing.qcow2
	ok "a missing layer" fails 4 \
		"The backing file of $c/missing.qcow2: $c/nothing.qcow2 does not exist."
	run open chain/missing.qcow2 x
	ok "open: a missing layer" fails 4 "$c/nothing.qcow2 does not exist."
	run info --chain chain/missing.qcow2
	ok "info --chain: a missing layer" both succeeds '' says \
		"broken: The backing file of $c/missing.qcow2: $c/nothing.qcow2 does not exist."
	ok "it cannot be attached" says 'attach:              no: '
	run info chain/missing.qcow2
	ok "info: nobody looks" says 'attach:              read-write'
	run info --chain --json chain/on-missing.qcow2
	ok "a missing layer in JSON" is "$(json stdout \
		'[(l["path"], l["format"]) for l in o["chain"]], o["chain"][2]["error"][:16], o["attach"]["mode"]')" \
		"([('$c/on-missing.qcow2', 'qcow2'), ('$c/missing.qcow2', 'qcow2'), ('$c/nothing.qcow2', None)], 'The backing file', 'no')"
	run table chain/loop1.qcow2
	ok "a loop" fails 4 "$c/loop1.qcow2 is in this chain already"
	run table chain/self.qcow2
	ok "its own backing file" fails 4 "$c/self.qcow2 is in this chain already"
	run table chain/link.qcow2
	ok "a loop over a link" fails 4 "$c/linked.qcow2 is in this chain already"
	run info --chain chain/loop1.qcow2
	ok "info --chain ends with a loop" both succeeds '' says 'the chain has a loop'

	run table chain/json.qcow2
	ok "json:" fails 4 "the backing file 'json:{"
	ok "json: what can be done" complains "'qemu-img rebase -u -b PATH -F FORMAT'"
	run table chain/nbd.qcow2
	ok "nbd:" fails 4 "'nbd://host/export', which is a protocol"
	run table chain/on-nbd.qcow2
	ok "nbd: below" fails 4 \
		"$c/nbd.qcow2 has the backing file 'nbd://host/export', which is a protocol"
	run info chain/nbd.qcow2
	ok "info of nbd:" says "attach:              no: the image has the backing file 'nbd:"
	run info --chain --json chain/nbd.qcow2
	ok "info --chain of nbd:" is \
		"$(json stdout 'o["chain"][1]["path"], "protocol" in o["chain"][1]["error"]')" \
		"(None, True)"
	run table chain/colon.qcow2
	ok "a colon" fails 4 "'x:y.qcow2', which is a protocol"
	run table chain/relfile.qcow2
	ok "file: before a relative name" fails 4 'which is not a path from the root'
	run table escape.qcow2
	ok "a NUL in a name" fails 4 'whose name has a NUL'

	run table chain/noformat.qcow2
	ok "no format" fails 4 'Give --backing-format'
	ok "no format: what can be done" complains 'qemu-img rebase -u -b NAME -F FORMAT'
	run info chain/noformat.qcow2
	ok "info: no format" says 'Give --backing-format'
	run table --backing-format qcow2 chain/noformat.qcow2
	ok "--backing-format qcow2" table_is noformat.qcow2 "3 backing qcow2 $tmp/plain.qcow2"
	run table --backing-format raw chain/noformat.qcow2
	ok "--backing-format raw" table_is noformat.qcow2 "3 backing raw $tmp/plain.qcow2"
	run table chain/on-noformat.qcow2
	ok "no format below" fails 4 "$c/noformat.qcow2 does not say"
	run table --backing-format raw chain/on-noformat.qcow2
	ok "--backing-format for a layer below" table_is on-noformat.qcow2 \
		"6 backing qcow2 $c/noformat.qcow2 backing raw $tmp/plain.qcow2"
	run info --chain --backing-format raw chain/noformat.qcow2
	ok "info --chain --backing-format" says "$tmp/plain.qcow2: raw, "
	run table --backing-format raw chain/vmdk.qcow2
	ok "another format" fails 4 "has the format 'vmdk'; only qcow2 and raw"

	run table chain/on-luks.qcow2
	ok "an encrypted layer" fails 1 \
		"$tmp/luks.qcow2 is encrypted, and a table line names its key"
	run table chain/on-garbage.qcow2
	ok "a layer that is no image" fails 4 "$tmp/garbage is not a qcow2 image"
	run table chain/on-far.qcow2
	ok "a damaged layer" fails 4 "$tmp/far.qcow2 is damaged"
	run table chain/on-fifo.qcow2
	ok "a FIFO as a layer" fails 4 "fifo is a FIFO"
	run table chain/on-nothing.qcow2
	ok "an empty file as an image" fails 4 "$tmp/empty is empty"
	if ((${#as_user[@]})); then
		run table chain/on-secret.qcow2
		ok "no permission for a layer" fails 2 "No permission to read $tmp/secret.qcow2"
	fi
}

test_data_files() {
	local c=$tmp/chain

	run table data.qcow2
	ok "a data file" is "$(cat stdout)" \
		"0 131072 qcow2 $tmp/data.qcow2 2 data_file $tmp/raw.data"
	run_in / table "$c/data.qcow2"
	ok "its name begins at the image" table_is data.qcow2 "2 data_file $c/sub/raw.data"
	run table chain/on-data.qcow2
	ok "a data file below" table_is on-data.qcow2 \
		"5 backing qcow2 $c/data.qcow2 data_file $c/sub/raw.data"
	run table chain/data-on.qcow2
	ok "a data file and a backing file" table_is data-on.qcow2 \
		"5 data_file $c/top.data backing qcow2 $tmp/plain.qcow2"
	run info --chain chain/data.qcow2
	ok "info --chain shows a data file" says "data file $c/sub/raw.data"
	run info --chain --json chain/data.qcow2
	ok "info --chain --json, too" is "$(json stdout 'o["chain"][0]["data_file"]')" \
		"$c/sub/raw.data"
	run_in chain table --data-file top.data data.qcow2
	ok "--data-file" table_is data.qcow2 "2 data_file $c/top.data"
	run table --data-file "$c/top.data" chain/data-on.qcow2
	ok "--data-file is for the top" table_is data-on.qcow2 \
		"5 data_file $c/top.data backing qcow2 $tmp/plain.qcow2"
	run table --data-file raw.data plain.qcow2
	ok "--data-file without need" fails 1 'leave --data-file out'
	run table --data-file nothing data.qcow2
	ok "--data-file with nothing" fails 4 \
		"The data file of $tmp/data.qcow2: nothing does not exist"
	run table chain/data-missing.qcow2
	ok "a missing data file" fails 4 "$c/nothing.data does not exist"
	run info --chain chain/data-missing.qcow2
	ok "info --chain: a missing data file" both succeeds '' says 'nothing.data does not exist'
	run table chain/data-unnamed.qcow2
	ok "a data file without a name" fails 4 'does not say which'
	ok "and what can be done" complains '--data-file PATH'
	run info chain/data-unnamed.qcow2
	ok "info: a data file without a name" says 'Give --data-file'
	run table --data-file raw.data chain/data-unnamed.qcow2
	ok "--data-file names it" table_is data-unnamed.qcow2 "2 data_file $tmp/raw.data"
	run table chain/data-nbd.qcow2
	ok "a data file with a protocol" fails 4 "'nbd://host/export', which is a protocol"
	run table --data-file "$c/data.qcow2" chain/data.qcow2
	ok "its own data file" fails 4 'is in this chain already'
}

# deep_line FROM: the line of the image of that number in chain/deep
deep_line() {
	local i n=$((513 - $1))

	printf '0 131072 qcow2 %s' "$tmp/chain/deep/$(printf %03d "$1").qcow2"
	if ((n > 1)); then
		printf ' %d' $((3 * (n - 1)))
		for ((i = $1 + 1; i < 513; i++)); do
			printf ' backing qcow2 %s' \
				"$tmp/chain/deep/$(printf %03d "$i").qcow2"
		done
	fi
	echo
}

# Of 513 images each is below the one before.
test_deep() {
	local n

	for n in 512 510 213 001; do
		run table "chain/deep/$n.qcow2"
		ok "$((513 - 10#$n)) layers" is "$(cat stdout)" "$(deep_line "$((10#$n))")"
	done
	run info --chain --json chain/deep/001.qcow2
	ok "512 layers in JSON" is "$(json stdout 'len(o["chain"])')" 512
	run table chain/deep/000.qcow2
	ok "513 layers" fails 4 "$tmp/chain/deep/512.qcow2 is one too many"
	status=0
	(ulimit -n 20 && ./qcow2setup table chain/deep/001.qcow2) \
		>stdout 2>stderr || status=$?
	ok "512 layers and few open files" both succeeds '' says 'backing qcow2'
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

# found STATUS ERRORS LEAKS: what check --json says, and it says nothing else.
found() {
	((status == $1)) && [[ ! -s stderr ]] &&
		is "$(json stdout 'o["errors"], o["leaks"]')" "($2, $3)"
}

qemu_finds_nothing() {
	silent qemu-img check -q "$1"
}

test_check() {
	local name

	for name in plain v2 c512 c2m r1 r64 lazy zstd extl2 compressed snapshot \
		bitmap overlay data luks aes zero; do
		run check $name.qcow2
		ok "check $name" both succeeds '' says \
			"$tmp/$name.qcow2 has no errors and no leaks."
	done
	run check dirty.qcow2
	ok "check: dirty" both succeeds '' says 'It is marked dirty'
	run check corrupt.qcow2
	ok "check: corrupt" both succeeds '' says 'It is marked corrupt'
	run check --json plain.qcow2
	ok "check --json" found 0 0 0
	ok "check --json: all of it" is "$(json stdout 'sorted(o)')" \
		"['end', 'errors', 'findings', 'findings_left_out', 'image', 'leaks', 'repair']"
	run check sick/leak.qcow2
	ok "check: a leak" is "$status $(head -n 1 stdout)" \
		"6 leak: cluster 3 (at 0x30000): refcount 2, references 1"
	ok "check: what to do" says 'check --repair=leaks'
	run check --json sick/low.qcow2
	ok "check: an error" found 7 1 0
	ok "check --json: the finding" is "$(json stdout 'o["findings"][0]')" \
		"{'kind': 'error', 'text': 'cluster 3 (at 0x30000): refcount 0, references 1'}"
	run check sick/many.qcow2
	ok "check: many errors" is "$(grep -c '^error: ' stdout)" 100
	ok "check: how many" says \
		"and $(($(json_errors sick/many.qcow2) - 100)) more; --verbose shows all"
	run check --json sick/many.qcow2
	ok "check --json: many" is "$(json stdout \
		'len(o["findings"]), o["errors"] - o["findings_left_out"]')" "(100, 100)"
	run check --verbose sick/many.qcow2
	ok "check --verbose: all" is "$(grep -c '^error: ' stdout)" \
		"$(json_errors sick/many.qcow2)"
	run check garbage
	ok "check: no image" fails 4 'not a qcow2 image'
	run check nothing.qcow2
	ok "check: nothing there" fails 4 'does not exist'
}

json_errors() {
	"$tmp/qcow2setup" check --json "$1" >errors.json || true
	json errors.json 'o["errors"]'
}

test_repair() {
	local name

	run check --repair=leaks sick/low.qcow2
	ok "repair=leaks: an error stays" is $status 7
	ok "repair=leaks: what to do" says '--repair=all'
	run check --repair=leaks sick/leak.qcow2
	ok "repair=leaks" both succeeds '' says 'now has no errors and no leaks'
	ok "QEMU finds nothing" qemu_finds_nothing sick/leak.qcow2
	run check --repair sick/leak.qcow2
	ok "repair: nothing to do" is "$status $(cat stdout)" \
		"0 $tmp/sick/leak.qcow2 has no errors and no leaks."
	run check --repair sick/low.qcow2
	ok "repair" both succeeds '' says 'Refcounts raised: 1'
	ok "QEMU finds nothing any more" qemu_finds_nothing sick/low.qcow2
	run check --repair=all --json sick/many.qcow2
	ok "repair=all --json" found 0 0 0
	ok "repair --json: what was done" is "$(json stdout \
		'o["repair"]["mode"], o["repair"]["refcounts_rebuilt"], o["repair"]["before"]["errors"] > 100')" \
		"('all', True, True)"
	ok "QEMU finds none of many" qemu_finds_nothing sick/many.qcow2
	for name in dirty corrupt; do
		run check --repair sick/$name.qcow2
		ok "repair: $name" both succeeds '' says 'The mark'
		run info sick/$name.qcow2
		ok "$name no more" says 'attach:              read-write'
	done
	run check --repair sick/lost.qcow2
	ok "repair: what cannot be mended" is $status 7
	ok "is said" says 'They cannot be mended'
	ok "after what was found" says 'After the repair:'
	run check --repair --json sick/lost.qcow2
	ok "no leak was given back" is "$(json stdout 'o["repair"]["leaks_kept"]')" True
	if ((${#as_user[@]})); then
		run check --repair plain.qcow2
		ok "repair: no permission" fails 2 'cannot be written'
	fi
	run check --repair garbage
	ok "repair: no image" fails 4 'not a qcow2 image'
	run check --repair=some sick/low.qcow2
	ok "repair: of what" fails 1 "not 'some'"
	run table --repair plain.qcow2
	ok "--repair is for check" fails 1 "does not take --repair"
}

# Tables that are in the order in which they were made, from the end to the
# beginning.
test_optimize() {
	local n writes=() reads=()

	qemu-img create -q -f qcow2 -o cluster_size=4k scattered.qcow2 40M
	for ((n = 19; n >= 0; n--)); do
		writes+=(-c "write -P $((n + 1)) $((n * 2))M 9k")
		reads+=(-c "read -P $((n + 1)) $((n * 2))M 9k")
	done
	silent qemu-io "${writes[@]}" scattered.qcow2
	chmod 666 scattered.qcow2
	run optimize scattered.qcow2
	ok "optimize" both succeeds '' says 'with the L2 tables (20), in'
	ok "QEMU finds nothing" qemu_finds_nothing scattered.qcow2
	ok "QEMU reads what it wrote" \
		is "$(qemu-io -r "${reads[@]}" scattered.qcow2 | grep -c failed)" 0
	run optimize scattered.qcow2
	ok "optimize: nothing to do" says 'L2 tables (20) in a row already'
	silent qemu-io "${writes[@]}" scattered.qcow2
	ok "QEMU writes" qemu_finds_nothing scattered.qcow2
	silent qemu-img snapshot -c one scattered.qcow2
	run optimize scattered.qcow2
	ok "optimize: all is shared" both succeeds '' says 'nothing was moved'
	silent qemu-io -c 'write 6M 64k' -c 'write 30M 64k' scattered.qcow2
	run optimize --json scattered.qcow2
	ok "optimize --json" is "$(json stdout \
		'o["moved"], o["l2_tables"], o["bytes"] > 0, o["offset"] > 0')" \
		"(True, 2, True, True)"
	ok "with a snapshot" qemu_finds_nothing scattered.qcow2
	silent qemu-img snapshot -a one scattered.qcow2
	ok "the snapshot is whole" \
		is "$(qemu-io -r "${reads[@]}" scattered.qcow2 | grep -c failed)" 0
	run optimize sick/lost.qcow2
	ok "optimize: errors" fails 4 'mend them first'
	ok "optimize: how" fails 4 "check --repair $tmp/sick/lost.qcow2"
	run optimize garbage
	ok "optimize: no image" fails 4 'not a qcow2 image'
	hold qemu-nbd -f qcow2 -k "$tmp/socket" -t scattered.qcow2
	run optimize scattered.qcow2
	ok "optimize: a writer has it" fails 5 'is in use by QEMU, which writes'
	release
}

test_check_locks() {
	local image=$tmp/sick/leak.qcow2

	hold qemu-nbd -f qcow2 -k "$tmp/socket" -t plain.qcow2
	run check plain.qcow2
	ok "check: a writer has it" fails 5 'is in use by QEMU, which writes'
	release
	hold qemu-nbd -r -f qcow2 -k "$tmp/socket" -t plain.qcow2
	run check plain.qcow2
	ok "check: a reader has it" both succeeds '' says 'no errors'
	# nothing but the lock is in the way
	chmod 666 plain.qcow2
	run check --repair plain.qcow2
	ok "repair: a reader has it" fails 5 'is in use by QEMU, which reads'
	chmod 644 plain.qcow2
	release
	run check "$image"
	ok "check: nobody has it" succeeds
}

# size IMAGE: its virtual size, as QEMU has it.
size() {
	qemu-img info --output=json -U "$1" >info.json
	json info.json 'o["virtual-size"]'
}

# resized IMAGE SIZE: without a word, and QEMU finds nothing wrong.
resized() {
	((status == 0)) && [[ ! -s stdout && ! -s stderr ]] &&
		is "$(size "$1")" "$2" && silent qemu-img check -f qcow2 "$1"
}

# to_resize NAME [OPTION]...: an image that the user may write to.
to_resize() {
	image "$@"
	chmod 666 "$1"
}

reads() {
	silent qemu-io -f qcow2 -c "read -P $2 $3 $4" "$1"
}

test_resize() {
	local o i=resize.qcow2

	for o in cluster_size=512 cluster_size=2M compat=0.10 \
			extended_l2=on,cluster_size=16k; do
		rm -f $i
		to_resize $i -o "$o"
		qemu-io -f qcow2 -c 'write -P 5 60M 4M' $i >/dev/null
		run resize $i 200M
		ok "$o: larger" resized $i 209715200
		run resize $i +1G
		ok "$o: larger by" resized $i 1283457024
		ok "$o: the data is there" reads $i 5 60M 4M
		ok "$o: and zeros behind" reads $i 0 64M 16M
		ok "$o: up to the end" reads $i 0 1208M 16M
		run resize $i 61M
		ok "$o: smaller needs a word" fails 1 'give --shrink'
		ok "$o: nothing has happened" is "$(size $i)" 1283457024
		run resize --shrink $i 63963649
		ok "$o: smaller, in whole sectors" resized $i 63964160
		run resize $i 64M
		ok "$o: larger again" resized $i 67108864
		ok "$o: what was kept" reads $i 5 60M 1M
		ok "$o: and what was not" reads $i 0 63964160 3144704
	done
	run resize $i 1T
	ok "T" resized $i 1099511627776
	run -v resize $i +512
	ok "--verbose" is "$status $(grep -oh 'it had [0-9]*' stdout stderr)" \
		'0 it had 1099511627776'
}

test_resize_chain() {
	local i=resize.qcow2

	qemu-img create -q -f raw resize.raw 8M
	qemu-io -f raw -c 'write -P 6 0 8M' resize.raw >/dev/null
	rm -f $i
	qemu-img create -q -f qcow2 -b resize.raw -F raw $i 3000320
	chmod 666 $i
	run resize $i 20M
	ok "over a longer layer" resized $i 20971520
	ok "which is seen where it was" reads $i 6 0 3000320
	ok "and nowhere else" reads $i 0 3000320 8M

	rm -f $i
	qemu-img create -q -f qcow2 -o data_file=resize.raw,data_file_raw=on $i 8M
	chmod 666 $i resize.raw
	run resize $i 12M
	ok "a data file" resized $i 12582912
	ok "grows, too" is "$(stat -c %s resize.raw)" 12582912
	run resize --shrink $i 1M
	ok "and shrinks" is "$(stat -c %s resize.raw)" 1048576
	run resize --data-file resize.raw $i 2M
	ok "--data-file" resized $i 2097152
}

test_resize_refused() {
	local i=resize.qcow2 word

	rm -f $i
	to_resize $i -o cluster_size=512
	for word in '' 0 -5M +-1 1.5G 10X 18446744073709551615 +; do
		run resize $i "$word"
		ok "no size: '$word'" is $status 1
	done
	run resize $i 129G
	ok "too large for its clusters" fails 1 '137438953472 bytes are the largest'
	run resize $i
	ok "no size" fails 1 'Too few arguments'
	run resize --shrink --readonly $i 1G
	ok "a wrong option" fails 1 "does not take --readonly"
	qemu-img snapshot -c one $i
	run resize $i 65M
	ok "snapshots" resized $i 68157440
	run resize --shrink $i 1M
	ok "no smaller with snapshots" fails 4 'can grow, but not shrink'
	qemu-img snapshot -d one $i
	qemu-img bitmap --add $i b0
	run resize $i 1G
	ok "bitmaps" fails 4 'qemu-img bitmap --remove'
	qemu-img bitmap --remove $i b0
	hold qemu-nbd -r -f qcow2 -k "$tmp/socket" -t plain.qcow2
	chmod 666 plain.qcow2
	run resize plain.qcow2 1G
	ok "somebody has it" fails 5 'is in use by QEMU, which reads it'
	chmod 644 plain.qcow2
	release
	if ((${#as_user[@]})); then
		run resize plain.qcow2 1G
		ok "no permission" fails 2 'cannot be written'
	fi
	ok "an image is as it was" is "$(size $i)" 68157440
	rm -f $i
	qemu-img create -q -f qcow2 -o compat=0.10 -b plain.qcow2 -F qcow2 $i 1M
	chmod 666 $i
	run resize $i 32M
	ok "version 2 over a longer layer" fails 4 'qemu-img amend -o compat=1.1'
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
	run open corrupt.qcow2 x
	ok "open says that an image is corrupt" fails 4 'Give --readonly'
	run open chain/nbd.qcow2 x
	ok "open says that a backing file is none" fails 4 'which is a protocol'
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
	qemu-img convert -c -O qcow2 plain.qcow2 compressed.qcow2
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
	cp plain.qcow2 both.qcow2
	poke both.qcow2 79 03
	qemu-img create -q -f qcow2 odd.qcow2 6656
	qemu-img create -q -f qcow2 small.qcow2 1024
	qemu-img create -q -f qcow2 zero.qcow2 0
	make_sick
	cp plain.qcow2 secret.qcow2
	chmod 600 secret.qcow2
	ln -s plain.qcow2 link.qcow2
}

# Clusters of 64 KiB: the refcount block is cluster 2, the L1 table cluster 3.
make_sick() {
	local name

	mkdir sick
	for name in leak low lost dirty corrupt; do
		cp plain.qcow2 sick/$name.qcow2
	done
	poke sick/leak.qcow2 $((0x20007)) 02
	poke sick/low.qcow2 $((0x20007)) 00
	poke sick/lost.qcow2 $((0x30000)) 00 00 00 40 00 00 00 00
	poke sick/lost.qcow2 $((0x20007)) 02
	poke sick/dirty.qcow2 79 01
	poke sick/corrupt.qcow2 79 02
	image sick/many.qcow2 -o cluster_size=4k,preallocation=metadata
	poke sick/many.qcow2 $((0x1000)) 00 00 00 00 00 00 00 00
	chmod 777 sick
	chmod 666 sick/*
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

# overlay NAME BACKING [FORMAT]: in chain/, without looking at BACKING
overlay() {
	qemu-img create -q -f qcow2 -u -b "$2" -F "${3-qcow2}" "chain/$1.qcow2" 64M
}

# forget IMAGE TYPE: have a header extension be one that nobody knows; its type
# is given as grep has it
forget() {
	poke "$1" "$(LC_ALL=C grep -abo -P "$2" "$1" | head -n 1 | cut -d : -f 1)" \
		11 11 11 11
}

make_chains() {
	local name

	mkdir -p chain/sub chain/deep 'chain/with space'
	head -c 1000 /dev/zero >chain/base.raw
	: >chain/empty
	(cd chain/sub && qemu-img create -q -f qcow2 -o cluster_size=4k \
		-b ../base.raw -F raw mid.qcow2 32M)
	overlay top sub/mid.qcow2
	cp plain.qcow2 'chain/with space/base #1.qcow2'
	cp plain.qcow2 chain/x:y.qcow2
	overlay 'over lay' 'with space/base #1.qcow2'
	overlay absolute "$tmp/plain.qcow2"
	overlay file "file:$tmp/plain.qcow2"
	overlay relfile file:x:y.qcow2
	overlay dot ./x:y.qcow2
	overlay colon x:y.qcow2
	overlay emptyraw empty raw
	overlay missing nothing.qcow2
	overlay on-missing missing.qcow2
	overlay loop1 loop2.qcow2
	overlay loop2 loop1.qcow2
	overlay self self.qcow2
	overlay link linked.qcow2
	ln -s link.qcow2 chain/linked.qcow2
	overlay json 'json:{"driver":"file","filename":"x"}' raw
	overlay nbd nbd://host/export raw
	overlay on-nbd nbd.qcow2
	overlay vmdk "$tmp/plain.qcow2" vmdk
	overlay noformat "$tmp/plain.qcow2"
	forget chain/noformat.qcow2 '\xe2\x79\x2a\xca'
	overlay on-noformat noformat.qcow2
	for name in dirty snapshot luks far secret; do
		overlay on-$name "$tmp/$name.qcow2"
	done
	overlay on-garbage "$tmp/garbage"
	overlay on-fifo "$tmp/fifo" raw
	overlay on-nothing "$tmp/empty"
	make_data_files
	make_deep
	chmod -R a+rX chain
}

make_data_files() {
	local o=(-q -f qcow2 -o)

	(
		cd chain
		qemu-img create "${o[@]}" data_file=sub/raw.data data.qcow2 64M
		qemu-img create "${o[@]}" data_file=top.data \
			-b "$tmp/plain.qcow2" -F qcow2 data-on.qcow2 64M
		qemu-img create "${o[@]}" data_file=nothing.data data-missing.qcow2 64M
		rm nothing.data
		qemu-img create "${o[@]}" data_file=unnamed.data data-unnamed.qcow2 64M
		forget data-unnamed.qcow2 DATA
		# with a colon QEMU would look for it
		name=____//host/export
		mkdir -p ____/host
		qemu-img create "${o[@]}" data_file=$name data-nbd.qcow2 64M
		poke data-nbd.qcow2 "$(grep -abo "$name" data-nbd.qcow2 | cut -d : -f 1)" \
			6e 62 64 3a
	)
	overlay on-data data.qcow2
}

# Copies with the number of the next one.
make_deep() {
	qemu-img create -q -f qcow2 -o cluster_size=512 -u -b 001.qcow2 -F qcow2 \
		chain/deep/000.qcow2 64M
	python3 - <<-EOF
	image = open("chain/deep/000.qcow2", "rb").read()
	for i in range(1, 512):
	    with open("chain/deep/%03d.qcow2" % i, "wb") as f:
	        f.write(image.replace(b"001.qcow2", b"%03d.qcow2" % (i + 1)))
	EOF
	cp plain.qcow2 chain/deep/512.qcow2
}

# Somebody writes after the image was opened and before it was locked: what has
# become larger is not cut.
test_grown_meanwhile() {
	local what first

	for what in repair resize; do
		qemu-img create -q -f qcow2 grown.qcow2 1G
		qemu-io -c 'write 0 10M' grown.qcow2 >/dev/null
		if [[ $what == repair ]]; then
			poke grown.qcow2 $((2 * 65536 + 20)) 0000
			set -- check --repair grown.qcow2
		else
			set -- resize grown.qcow2 64T
		fi
		# which call takes the first lock is seen with a copy
		cp grown.qcow2 copy.qcow2
		strace -o trace -e trace=fcntl "$tool" "${@/grown/copy}" \
			>stdout 2>stderr || true
		first=$(grep -n -m 1 F_OFD_SETLK trace | cut -d : -f 1)
		strace -o trace -e trace=fcntl \
			-e inject=fcntl:delay_enter=3000000:when="$first" \
			"$tool" "$@" >stdout 2>stderr &
		sleep 1
		# with free clusters below what was written last
		qemu-io -d unmap -c 'write -P 9 100M 20M' -c 'discard 100M 8M' \
			grown.qcow2 >/dev/null
		wait $! || true
		ok "$what of an image that grows meanwhile" reads_nine
	done
}

reads_nine() {
	qemu-img check -q grown.qcow2 &&
		! qemu-io -c 'read -P 9 108M 12M' grown.qcow2 | grep -q failed
}

make_images
make_hostile
make_chains
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
test_chains
test_bad_chains
test_data_files
test_deep
test_locks
test_check
test_repair
test_optimize
test_check_locks
test_resize
test_resize_chain
test_resize_refused
test_grown_meanwhile
test_no_module
echo "1..$count"
((failed == 0))
