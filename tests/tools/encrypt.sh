#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The suite of qcow2setup's encryption: images of QEMU are unlocked, those made here
# are read and written by QEMU, key slots come and go, and no key or passphrase is
# where it should not be. 'open' has a device-mapper that takes everything.

set -euo pipefail

if [[ ${1-} == --help ]]; then
	cat <<-EOF
	Usage: tests/tools/encrypt.sh

	Test \$QCOW2SETUP (default: build/qcow2setup) with
	build/tests/preload/fakedm.so. Prints TAP.
	EOF
	exit
fi

# shellcheck source=tests/lib/tools.sh
. "$(dirname "$(readlink -f "$0")")/../lib/tools.sh"
child='' source=$(dirname "$(readlink -f "$OLDPWD/tests/run")")/..
source=$(readlink -f "$source")

clean_up_more() {
	[[ ! $child ]] || kill "$child" 2>/dev/null || true
}

# Where the user may write.
cp "$source/build/tests/preload/fakedm.so" .
mkdir w
chmod 777 w
cd w
printf secret.42 >pass
printf second.43 >new
printf wrong >wrong
fast=(--pbkdf-force-iterations 1000)

made() {
	((status == 0)) && [[ ! -s ../stdout && ! -s ../stderr ]]
}

absent() {
	[[ ! -e $1 && ! -L $1 ]]
}

# run_line TEXT ARGUMENT...: with a text as stdin
run_line() {
	local text=$1

	shift
	status=0
	printf "%b" "$text" | timeout 20 "${as_user[@]}" "$tmp/qcow2setup" "$@" \
		>../stdout 2>../stderr || status=$?
}

# opens ARGUMENT...: 'open' as a user, with the passphrase file "pass" as stdin
opens() {
	rm -f ../record/record
	status=0
	FAKEDM=$tmp/record/record LD_PRELOAD=$tmp/fakedm.so timeout 20 \
		"${as_user[@]}" "$tmp/qcow2setup" open "$@" <"${input:-pass}" \
		>../stdout 2>../stderr || status=$?
}

recorded() {
	grep -qE -- "$1" ../record/record
}

# The keys that were found when the table was loaded; none is left.
keys_found() {
	[[ $(grep -c '^found' ../record/record) == "$1" ]] &&
		! grep -qE '^(missing|left)' ../record/record
}

# qemu IMAGE PASSPHRASE-FILE COMMAND...
qemu() {
	local image=$1 file=$2 words=()

	shift 2
	while (($#)); do
		words+=(-c "$1")
		shift
	done
	qemu-io --object "secret,id=s,file=$file" --image-opts "${words[@]}" \
		"driver=qcow2,file.filename=$image,encrypt.key-secret=s" \
		>io 2>&1 && ! grep -qE 'failed|error' io
}

# qemu_image NAME [OPTION]...
qemu_image() {
	local name=$1 more=''

	shift
	[[ ! ${1-} ]] || more=,$1
	qemu_create -f qcow2 --object secret,id=s,file=pass \
		-o "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=300$more" \
		"$name" 10M
	chmod 666 "$name"
}

check() {
	run check "$1"
	((status == 0))
}

# Where the LUKS header is: from the header extension.
header_at() {
	python3 - "$1" <<-'EOF'
	import struct, sys
	d = open(sys.argv[1], "rb").read(65536)
	p = struct.unpack(">I", d[100:104])[0]
	while True:
	    t, n = struct.unpack(">II", d[p:p + 8])
	    if t == 0x0537be77:
	        print(*struct.unpack(">QQ", d[p + 8:p + 24]))
	        break
	    p += 8 + (n + 7) // 8 * 8
	EOF
}

# The volume key, as cryptsetup has it.
volume_key() {
	local offset length

	read -r offset length <<<"$(header_at "$1")"
	tail -c +$((offset + 1)) "$1" | head -c "$length" >header || true
	truncate -s 16M header
	rm -f volume
	cryptsetup luksDump -q --dump-volume-key --volume-key-file volume \
		--key-file "$2" header >/dev/null
	od -An -v -tx1 volume | tr -d ' \n'
}

slots() {
	run info --json "$1"
	json ../stdout 'o["luks"]["slots"]'
}

# ----------------------------------------------------------------

# makes OPTION...: an image, like that of QEMU
makes() {
	rm -f a.qcow2 x.data
	run create --encrypt luks "${fast[@]}" --key-file pass "$@" a.qcow2 10M
	ok "create $*" made
	ok "check: $*" check a.qcow2
	ok "QEMU writes and reads it: $*" qemu a.qcow2 pass \
		'read -P 0 0 10M' 'write -P 7 64k 64k' 'write -P 8 9M 3k' \
		'read -P 7 64k 64k' 'read -P 8 9M 3k' 'read -P 0 128k 8M'
	ok "check again: $*" check a.qcow2
}

test_create() {
	makes
	run info a.qcow2
	ok "info: cipher" says 'cipher:              aes-xts-plain64'
	ok "info: key" says 'key:                 512 bits'
	ok "info: hash" says 'hash:                sha256'
	ok "info: slots" says 'key slots in use:    0'
	ok "info: read-write" says 'attach:              read-write'
	makes --cluster-size 512
	makes --cluster-size 2M
	makes --extended-l2
	makes --refcount-bits 1 --hash sha512
	makes --key-size 256
	makes --cipher aes-cbc-essiv:sha256
	makes --cipher aes-ctr-plain64 --key-size 128
	makes --data-file x.data
	qemu-img create -q -f qcow2 base.qcow2 10M
	silent qemu-io -c 'write -P 5 1M 1M' base.qcow2
	rm a.qcow2
	run create --encrypt luks "${fast[@]}" --key-file pass \
		--backing base.qcow2 --backing-format qcow2 a.qcow2
	ok "over a plain base" made
	ok "reads as its base" qemu a.qcow2 pass 'read -P 5 1M 1M' \
		'write -P 6 1M 512' 'read -P 5 1025k 64k'
	rm a.qcow2
	run_line 'line\nrest' create --encrypt luks "${fast[@]}" a.qcow2 1M
	printf line >line
	ok "create: a line of stdin" made
	ok "QEMU: a line of stdin" qemu a.qcow2 line 'read -P 0 0 1M'
	rm a.qcow2
	run_line 'line\n' create --encrypt luks "${fast[@]}" --key-file - a.qcow2 1M
	printf 'line\n' >line
	ok "create: all of stdin" made
	ok "QEMU: all of stdin" qemu a.qcow2 line 'read -P 0 0 1M'
	rm a.qcow2
}

# refuses TEXT OPTION...: and makes no file
refuses() {
	local text=$1

	shift
	rm -f no.qcow2
	run create "$@" no.qcow2 1M
	ok "refused: $*" fails 1 "$text"
	ok "and no file: $*" absent no.qcow2
}

test_refused() {
	local e=(--encrypt luks --key-file pass "${fast[@]}") mode

	for mode in metadata falloc full; do
		refuses 'read as garbage' "${e[@]}" --preallocation $mode
	done
	refuses 'it cannot be raw' "${e[@]}" --data-file d --data-file-raw
	refuses "'xor-xts-plain64' is not supported" "${e[@]}" --cipher xor-xts-plain64
	refuses "is not supported" "${e[@]}" --cipher aes
	refuses "is not supported" "${e[@]}" --cipher aes-xts-benbi
	refuses "not possible" "${e[@]}" --key-size 1024
	refuses "not possible" "${e[@]}" --key-size 129
	refuses "cannot have aes-xts-plain64, a key of 128 bits" "${e[@]}" --key-size 128
	refuses "cannot be hashed with 'nosuch'" "${e[@]}" --hash nosuch
	refuses "cannot be hashed" --encrypt luks --key-file pass \
		--pbkdf-force-iterations 999
	refuses "--encrypt is luks, not 'aes'" --encrypt aes
	refuses "--cipher is given" --cipher aes-xts-plain64
	refuses "--key-file is given" --key-file pass
	refuses "cannot be opened" --encrypt luks "${fast[@]}" --key-file none
	: >empty
	refuses "is empty" --encrypt luks "${fast[@]}" --key-file empty
	truncate -s $((8388608 + 1)) large
	refuses "larger than 8 MiB" --encrypt luks "${fast[@]}" --key-file large
	refuses "passphrase is empty" --encrypt luks "${fast[@]}"
	run close --key-file pass x
	ok "close takes no key file" fails 1 'does not take --key-file'
}

# ----------------------------------------------------------------

test_open() {
	local key cipher name

	mkdir -m 777 ../record
	qemu_image q.qcow2
	key=$(volume_key q.qcow2 pass)
	opens --key-file pass q.qcow2 x
	ok "open --key-file" made
	ok "the key is in the keyring, and goes" keys_found 1
	ok "it is the right one" recorded "^key qcow2setup:[0-9a-f]{32} $key\$"
	ok "and not in the table" recorded \
		"^table $tmp/w/q.qcow2 3 luks aes-xts-plain64 :64:logon:qcow2setup:[0-9a-f]{32}\$"
	opens q.qcow2 x
	ok "a line of stdin" both made '' keys_found 1
	input=new opens --debug q.qcow2 x
	ok "another passphrase" fails 2 'No key available with this passphrase.'
	ok "nothing was loaded" absent ../record/record
	ok "it is not shown" is "$(grep -c second.43 ../stderr)" 0
	opens --key-file wrong q.qcow2 x
	ok "another key file" fails 2 "$tmp/w/q.qcow2: No key available"
	FAKEDM_ERROR=22 opens --debug --key-file pass q.qcow2 x
	ok "the kernel refuses" is $status 4
	ok "the key goes, too" keys_found 1
	ok "neither key nor passphrase is shown" is \
		"$(grep -cE "$key|secret.42" ../stderr)" 0
	# a chain: plain over AES over LUKS
	qemu_create -f qcow2 --object secret,id=s,file=pass \
		-o encrypt.format=aes,encrypt.key-secret=s -u -b q.qcow2 \
		-F qcow2 mid.qcow2 10M 2>/dev/null
	qemu-img create -q -f qcow2 -u -b mid.qcow2 -F qcow2 top.qcow2 10M
	qemu-img create -q -f qcow2 plain.qcow2 1M
	chmod 666 mid.qcow2 top.qcow2 plain.qcow2
	opens --key-file pass top.qcow2 x
	ok "a chain with one key file" both made '' keys_found 2
	name='qcow2setup:[0-9a-f]{32}'
	ok "its options" recorded "^table $tmp/w/top.qcow2 11 backing qcow2 $tmp/w/mid.qcow2 aes :16:logon:$name backing qcow2 $tmp/w/q.qcow2 luks aes-xts-plain64 :64:logon:$name\$"
	ok "AES: the passphrase, with NULs" recorded \
		"^key $name 7365637265742e343200000000000000\$"
	printf 'a long passphrase of many bytes\nsecret.42\n' >lines
	input=lines opens top.qcow2 x
	ok "a chain with a line for each" both made '' keys_found 2
	ok "AES: the passphrase, cut" recorded \
		"^key $name 61206c6f6e6720706173737068726173\$"
	opens --key-file pass plain.qcow2 x
	ok "nothing is encrypted" fails 1 'leave --key-file out'
	for cipher in aes-xts-plain64 aes-cbc-essiv:sha256 aes-ctr-plain64; do
		rm -f a.qcow2
		run create --encrypt luks --cipher $cipher "${fast[@]}" \
			--key-file pass a.qcow2 1M
		key=$(volume_key a.qcow2 pass)
		opens --key-file pass a.qcow2 x
		ok "open: $cipher" recorded "^key $name $key\$"
	done
}

test_table() {
	run table q.qcow2
	ok "table without a key" fails 1 'give --key :64:logon:NAME'
	run table --key :64:logon:a:b q.qcow2
	ok "table --key" is "$(cat ../stdout)" \
		"0 20480 qcow2 $tmp/w/q.qcow2 3 luks aes-xts-plain64 :64:logon:a:b"
	run table --key :16:user:k1 --key :64:encrypted:k2 top.qcow2
	ok "table of a chain" is "$(cat ../stdout)" \
		"0 20480 qcow2 $tmp/w/top.qcow2 11 backing qcow2 $tmp/w/mid.qcow2 aes :16:user:k1 backing qcow2 $tmp/w/q.qcow2 luks aes-xts-plain64 :64:encrypted:k2"
	run table --key :16:user:k1 top.qcow2
	ok "a key too few" fails 1 "$tmp/w/q.qcow2 is encrypted"
	run table --key :64:logon:a --key :64:logon:b q.qcow2
	ok "a key too many" fails 1 '--key is given 2 times'
	for key in :32:logon:a :64:logon: :64:trusted:a 64:logon:a :64:logon ''; do
		run table --key "$key" q.qcow2
		ok "no key: '$key'" fails 1 "and not '$key'"
	done
	run table --key ':64:logon:a b' q.qcow2
	ok "a space in a name" says ':64:logon:a\040b'
	run table --json --key :64:logon:a q.qcow2
	ok "table --json" is "$(json ../stdout 'o["chain"][0]["encryption"]')" luks
}

# Every cipher and mode that QEMU writes, with one IV each but for AES;
# EVERY_CIPHER=1: with every one.
test_ciphers() {
	local alg mode iv options want

	for alg in aes-128 aes-256 serpent-128 serpent-256 twofish-128 \
		twofish-256 cast5-128; do
		for mode in xts cbc ctr ecb; do
			[[ $alg$mode != cast5-128xts ]] || continue
			for iv in plain plain64 essiv; do
				[[ $iv$alg != essivcast5-128 ]] || continue
				[[ $iv == plain64 || $alg == aes-256 ||
					${EVERY_CIPHER-} ]] || continue
				options=encrypt.cipher-alg=$alg,encrypt.cipher-mode=$mode
				options+=,encrypt.ivgen-alg=$iv
				want=${alg%-*}-$mode-$iv
				if [[ $iv == essiv ]]; then
					options+=,encrypt.ivgen-hash-alg=sha256
					want+=:sha256
				fi
				rm -f c.qcow2
				qemu_image c.qcow2 $options 2>/dev/null || continue
				run info --json c.qcow2
				ok "info: $alg $want" is "$(json ../stdout 'o["luks"]["cipher"],
					o["luks"]["slots"], o["luks"]["error"]')" \
					"('$want', [0], None)"
			done
		done
	done
}

# ----------------------------------------------------------------

test_slots() {
	local n

	rm -f s.qcow2
	run create --encrypt luks "${fast[@]}" --key-file pass s.qcow2 1M
	chmod 666 s.qcow2
	qemu s.qcow2 pass 'write -P 7 0 1M'
	run luksAddKey "${fast[@]}" --key-file pass --new-key-file new s.qcow2
	ok "luksAddKey" made
	ok "two slots" is "$(slots s.qcow2)" '[0, 1]'
	ok "QEMU: the old one" qemu s.qcow2 pass 'read -P 7 0 1M'
	ok "QEMU: the new one" qemu s.qcow2 new 'read -P 7 0 1M'
	run luksAddKey "${fast[@]}" --key-file wrong --new-key-file new s.qcow2
	ok "luksAddKey: a wrong one" fails 2 'No key available'
	run luksAddKey --key-file - --new-key-file - s.qcow2
	ok "stdin twice" fails 1 'cannot both be'
	run_line 'secret.42\nthird.44\n' luksChangeKey "${fast[@]}" s.qcow2
	printf third.44 >third
	ok "luksChangeKey" made
	ok "another slot" is "$(slots s.qcow2)" '[1, 2]'
	ok "QEMU: the one that came" qemu s.qcow2 third 'read -P 7 0 1M'
	ok "QEMU: the one that went" is "$(qemu s.qcow2 pass 'read 0 1M'; echo $?)" 1
	run luksKillSlot s.qcow2 1
	ok "luksKillSlot" made
	ok "one slot" is "$(slots s.qcow2)" '[2]'
	ok "QEMU: it opens nothing" is "$(qemu s.qcow2 new 'read 0 1M'; echo $?)" 1
	run luksKillSlot s.qcow2 1
	ok "a slot not in use" fails 1 'is not in use'
	for n in 8 -1 x ''; do
		run luksKillSlot -- s.qcow2 "$n"
		ok "no slot: '$n'" fails 1 'is no key slot'
	done
	run luksKillSlot s.qcow2 2
	ok "the last slot" fails 1 '--force'
	for n in {1..7}; do
		run luksAddKey "${fast[@]}" --key-file third \
			--new-key-file new s.qcow2
	done
	ok "eight slots" is "$(slots s.qcow2)" '[0, 1, 2, 3, 4, 5, 6, 7]'
	run luksAddKey "${fast[@]}" --key-file third --new-key-file new s.qcow2
	ok "no ninth" fails 1 'all 8 key slots are in use'
	ok "check" check s.qcow2
	ok "QEMU: still" qemu s.qcow2 third 'read -P 7 0 1M'
	for n in 0 1 3 4 5 6 7; do
		run luksKillSlot s.qcow2 $n
	done
	run luksKillSlot --force s.qcow2 2
	ok "luksKillSlot --force" made
	ok "no slot" is "$(slots s.qcow2)" '[]'
	opens --key-file third s.qcow2 x
	ok "nothing opens it" fails 4 'no key slot of its LUKS header is in use'
	run luksKillSlot plain.qcow2 0
	ok "an image without encryption" fails 4 'has no LUKS encryption'
	run luksAddKey mid.qcow2
	ok "an image with AES" fails 4 'qemu-img convert'
}

# An image of QEMU, whose header has another layout.
test_qemu_slots() {
	rm -f s.qcow2
	qemu_image s.qcow2
	run luksAddKey "${fast[@]}" --key-file pass --new-key-file new s.qcow2
	ok "luksAddKey to an image of QEMU" made
	run luksKillSlot s.qcow2 0
	ok "luksKillSlot of an image of QEMU" made
	ok "QEMU takes it" qemu s.qcow2 new 'write -P 3 0 1M' 'read -P 3 0 1M'
	ok "check" check s.qcow2
	qemu-nbd --object secret,id=s,file=new -k "$tmp/socket" -t --image-opts \
		driver=qcow2,file.filename=s.qcow2,encrypt.key-secret=s &
	child=$!
	for _ in {1..100}; do
		[[ ! -S $tmp/socket ]] || break
		sleep 0.1
	done
	cp s.qcow2 copy.qcow2
	run luksAddKey --key-file new --new-key-file pass s.qcow2
	ok "an image in use" fails 5 'is in use by QEMU'
	run luksKillSlot --force s.qcow2 1
	ok "luksKillSlot of an image in use" fails 5 'is in use by QEMU'
	ok "is as it was" cmp s.qcow2 copy.qcow2
	# it may be deaf to others for a moment after it has made its socket
	kill -KILL $child
	wait $child 2>/dev/null || true
	child=''
	if ((${#as_user[@]})); then
		chmod 444 s.qcow2
		run luksKillSlot --force s.qcow2 1
		ok "no permission" fails 2 'cannot be written'
	fi
}

# writes ARGUMENT...: the writes and flushes of the image, a letter for each: M key
# material, H header, F flush; runs are one letter
writes() {
	local at

	at=$(header_at t.qcow2)
	at=${at% *}
	strace -f -y -e trace=pwrite64,fdatasync -o trace "$tmp/qcow2setup" "$@" \
		>../stdout 2>../stderr </dev/null || true
	python3 - "$at" <<-'EOF'
	import re, sys
	at, out = int(sys.argv[1]), ""
	for line in open("trace"):
	    if "t.qcow2" not in line:
	        continue
	    if "fdatasync" in line:
	        c = "F"
	    else:
	        pos = int(re.search(r", (\d+)\) += ", line)[1])
	        c = "H" if pos < at + 1024 else "M"
	    if not out.endswith(c):
	        out += c
	print(out)
	EOF
}

test_order() {
	rm -f t.qcow2
	run create --encrypt luks "${fast[@]}" --key-file pass t.qcow2 1M
	if ! strace -o trace true 2>/dev/null; then
		count=$((count + 1))
		echo "ok the order of writes # SKIP no strace"
		return
	fi
	ok "add: key material, then the header" is "$(writes luksAddKey "${fast[@]}" \
		--key-file pass --new-key-file new t.qcow2)" MFHF
	ok "change: add, then kill" is "$(writes luksChangeKey "${fast[@]}" \
		--key-file new --new-key-file wrong t.qcow2)" MFHFHFMF
	ok "kill: the header, then key material" is \
		"$(writes luksKillSlot t.qcow2 0)" HFMF
	ok "which still opens it" qemu t.qcow2 wrong 'read -P 0 0 1M'
}

# broken NAME TEXT OFFSET HEX...: bytes of the LUKS header
broken() {
	local name=$1 text=$2 offset=$3 at

	shift 3
	cp d.qcow2 broken.qcow2
	chmod 666 broken.qcow2
	at=$(header_at d.qcow2)
	poke broken.qcow2 $((${at% *} + offset)) "$@"
	run info broken.qcow2
	ok "info: $name" both says "$text" says 'attach:              no: '
	run info --json broken.qcow2
	ok "info --json: $name" is "$(json ../stdout 'o["luks"]["cipher"],
		o["luks"]["error"] is None')" '(None, False)'
	opens --key-file pass broken.qcow2 x
	ok "open: $name" fails 4 "$text"
	run luksKillSlot --force broken.qcow2 0
	ok "luksKillSlot: $name" fails 4 "$text"
}

test_damaged() {
	local at

	rm -f d.qcow2
	run create --encrypt luks "${fast[@]}" --key-file pass d.qcow2 1M
	chmod 666 d.qcow2
	broken 'no magic' 'header is damaged' 0 00
	broken 'version 2' 'header is damaged' 6 00 02
	broken 'an unknown cipher' 'is not supported' 8 78
	broken 'a cipher with a space' 'is not supported' 11 20 78
	# shellcheck disable=SC2046 # words
	broken 'a mode without end' 'is not supported' 40 \
		$(printf '41 %.0s' {1..32})
	broken 'a slot out of bounds' 'is damaged' 248 00 7f ff ff
	broken 'a slot over the header' 'is damaged' 248 00 00 00 00
	broken 'a state of a slot' 'is damaged' 208 12 34 56 78
	broken 'no stripes' 'is damaged' 252 00 00 00 00
	broken 'an endless key' 'is damaged' 108 ff ff ff ff
	cp d.qcow2 broken.qcow2
	at=$(header_at d.qcow2)
	poke broken.qcow2 $((${at% *} + 5000)) 00 11 22 33
	chmod 666 broken.qcow2
	opens --key-file pass broken.qcow2 x
	ok "damaged key material" fails 2 'No key available'
	cp d.qcow2 broken.qcow2
	poke broken.qcow2 $((${at% *} + 208)) 00 00 de ad
	opens --key-file pass broken.qcow2 x
	ok "a slot that is disabled" fails 4 'no key slot'
}

# ----------------------------------------------------------------

test_core_dump() {
	mkfifo fifo
	chmod 666 fifo
	"${as_user[@]}" "$tmp/qcow2setup" create --encrypt luks "${fast[@]}" \
		core.qcow2 1M <fifo >../stdout 2>../stderr &
	child=$!
	exec 9>fifo
	for _ in {1..100}; do
		[[ $(readlink "/proc/$child/exe") != */qcow2setup ]] ||
			! grep -q 'Max core file size *0 *0' "/proc/$child/limits" ||
			break
		sleep 0.05
	done
	ok "no core dump: the limit" grep -q 'Max core file size *0 *0' \
		"/proc/$child/limits"
	ok "no core dump: not dumpable" is "$(stat -c %u "/proc/$child/fd")" 0
	ok "memory is locked" is \
		"$(awk '/VmLck/ { print ($2 > 0) }' "/proc/$child/status")" 1
	kill -TERM $child
	exec 9>&-
	wait $child 2>/dev/null || true
	child=''
	ok "an image in the making goes" absent core.qcow2
}

# A terminal: answers to prompts, and what was shown.
test_terminal() {
	cat >ask.py <<-'EOF'
	import os, pty, signal, sys, termios
	# ask.py ANSWER[,ANSWER]... COMMAND...; ^C is a signal
	answers, command = sys.argv[1].split(","), sys.argv[2:]
	pid, fd = pty.fork()
	if not pid:
	    os.execv(command[0], command)
	shown = b""
	while True:
	    try:
	        data = os.read(fd, 4096)
	    except OSError:
	        break
	    if not data:
	        break
	    shown += data
	    if shown.endswith(b": ") and answers:
	        a = answers.pop(0)
	        if a == "^C":
	            quiet = not termios.tcgetattr(fd)[3] & termios.ECHO
	            os.write(fd, b"\x03")
	        else:
	            os.write(fd, a.encode() + b"\n")
	status = os.waitpid(pid, 0)[1]
	sys.stdout.write(shown.decode())
	print("status", os.waitstatus_to_exitcode(status))
	EOF
	terminal() {
		FAKEDM=$tmp/record/record LD_PRELOAD=$tmp/fakedm.so \
			timeout 60 python3 ask.py "$@" >../stdout 2>../stderr || true
	}
	rm -f ../record/record
	terminal wrong,bad,secret.42 "$tmp/qcow2setup" open d.qcow2 x
	ok "the third try" both says 'status 0' keys_found 1
	ok "the image is named" says "Enter passphrase for $tmp/w/d.qcow2: "
	ok "nothing is shown" is "$(grep -cE 'wrong|secret' ../stdout)" 0
	terminal 1,2,3 "$tmp/qcow2setup" open d.qcow2 x
	ok "three tries" is "$(grep -c 'No key available' ../stdout)" 3
	ok "and no more" says 'status 2'
	terminal ^C "$tmp/qcow2setup" open d.qcow2 x
	ok "^C" says 'status -2'
	terminal one.11,one.11 "$tmp/qcow2setup" create --encrypt luks "${fast[@]}" \
		tty.qcow2 1M
	printf one.11 >one
	ok "create asks twice" says 'status 0'
	ok "and takes it" qemu tty.qcow2 one 'read -P 0 0 1M'
	rm tty.qcow2
	terminal one.11,one.12 "$tmp/qcow2setup" create --encrypt luks "${fast[@]}" \
		tty.qcow2 1M
	ok "two that differ" says 'do not match'
	ok "no image" absent tty.qcow2
	terminal ^C "$tmp/qcow2setup" create --encrypt luks tty.qcow2 1M
	ok "create: ^C" both says 'Interrupted' absent tty.qcow2
}

# ----------------------------------------------------------------

# Without the key.
test_resize() {
	rm -f r.qcow2
	run create --encrypt luks "${fast[@]}" --key-file pass r.qcow2 1M
	qemu r.qcow2 pass 'write -P 7 0 1M'
	run resize r.qcow2 20M
	ok "resize" made
	ok "QEMU: zeros behind" qemu r.qcow2 pass 'read -P 7 0 1M' \
		'read -P 0 1M 19M'
	run resize --shrink r.qcow2 100k
	ok "resize --shrink" made
	ok "QEMU: what is left" qemu r.qcow2 pass 'read -P 7 0 100k'
	ok "check" check r.qcow2
	cp r.qcow2 copy.qcow2
	run resize r.qcow2 20M
	ok "zeros would have to be encrypted" fails 4 'would need its key'
	ok "is as it was" cmp r.qcow2 copy.qcow2
}

test_create
test_refused
test_open
test_table
test_slots
test_qemu_slots
test_order
test_damaged
test_core_dump
test_terminal
test_resize
test_ciphers
echo "1..$count"
((failed == 0))
