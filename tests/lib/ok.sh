# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Tests of a command that has left its $status, and what it said in $tmp/stdout and
# $tmp/stderr. To be sourced by suites that print TAP.

count=0 failed=0 status=0

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
		head -n 40 "$tmp/stdout" | sed 's/^/# stdout: /'
		head -n 40 "$tmp/stderr" | sed 's/^/# stderr: /'
	fi
}
