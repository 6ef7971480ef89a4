# SPDX-License-Identifier: GPL-2.0-only
#
# Reads lcov's tracefiles, whose paths begin with dm-qcow2/, and prints how much
# of each file is reached. Variables:
#
#	unreachable	file: what cannot be reached, see there
#	lines		file to write the lines to that are not reached
#	branches	file to write the lines to of which not every branch is
#
# Exit status 1: something that cannot be reached is reached, or is not there.

function percent(part, all) {
	return all ? sprintf("%d/%d %5.1f%%", part, all, 100 * part / all) : "-"
}

function row(name, l, la, b, ba) {
	printf "%-28s %17s %18s\n", name, percent(l, la), percent(b, ba)
}

function trim(s) {
	gsub(/^[ \t]+|[ \t]+$/, "", s)
	return s
}

# source[1..n], what the lines of a file say
function read_source(file,   n, line) {
	split("", source)
	while ((getline line < file) > 0)
		source[++n] = trim(line)
	close(file)
}

# The function that a line is in: the last that begins before it.
function function_at(line,   f, best, name) {
	for (f in start)
		if (start[f] <= line && start[f] > best) {
			best = start[f]
			name = f
		}
	return name
}

# "FILE FUNCTION: SOURCE", and below it, indented, why.
function read_unreachable(   line) {
	while ((getline line < unreachable) > 0)
		if (line ~ /^[^ \t#]/)
			listed[line] = 1
	close(unreachable)
}

function end_of_file(   short, i, line, key, hits) {
	short = file
	sub(/^dm-qcow2\//, "", short)
	read_source(file)
	seen_file[short] = 1
	for (i = 1; i <= nr_lines; i++) {
		line = line_of[i]
		key = short " " function_at(line) ": " source[line]
		if (key in listed) {
			if (!(key in state) || state[key] != "missed")
				state[key] = count[line] ? "reached" : "missed"
			if (!count[line])
				excused++
		}
		if (count[line])
			hits++
		else
			printf("%s:%d: %s%s\n", file, line, source[line],
			       (key in listed ? "\t[cannot be reached]" : "")) >lines
		if (branches_of[line] > taken_of[line])
			printf("%s:%d: %d of %d taken: %s\n", file, line,
			       taken_of[line], branches_of[line],
			       source[line]) >branches
	}
	row(short, hits, nr_lines, taken, nr_branches)
	all_hits += hits
	all_lines += nr_lines
	all_taken += taken
	all_branches += nr_branches
}

BEGIN {
	FS = "[:,]"
	read_unreachable()
	printf "" >lines
	printf "" >branches
	printf "%-28s %17s %18s\n", "", "lines", "branches"
}

$1 == "SF" {
	file = substr($0, 4)
	nr_lines = nr_branches = taken = 0
	split("", start)
	split("", count)
	split("", branches_of)
	split("", taken_of)
}

$1 == "FN" {
	start[$NF] = $2
}

$1 == "DA" {
	line_of[++nr_lines] = $2
	count[$2] = $3
}

# taken "-": the line was never reached
$1 == "BRDA" {
	nr_branches++
	branches_of[$2]++
	if ($5 != "-" && $5 > 0) {
		taken++
		taken_of[$2]++
	}
}

$0 == "end_of_record" {
	end_of_file()
}

END {
	row("total", all_hits, all_lines, all_taken, all_branches)
	printf "%d lines are not reached", all_lines - all_hits
	if (excused)
		printf ", %d of them cannot be", excused
	printf ": see %s\n", lines
	for (key in listed) {
		split(key, word, " ")
		if (!(word[1] in seen_file) || state[key] == "missed")
			continue
		if (!(key in state))
			state[key] = "not there"
		printf "%s: %s: is %s\n", unreachable, key, state[key]
		outdated = 1
	}
	exit outdated
}
