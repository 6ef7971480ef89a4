#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The sums of the benchmark.

Usage: report.py show OUT [NAME...]   table to stdout; results.json,
                                      results.csv, plots to OUT
       report.py check FIGURES RAW... compare with the figures, print TAP
       report.py update FIGURES RAW...  write the figures

OUT/raw/NAME and RAW are what guest.sh has left: kernel, contenders, fio-*.json.
tests/bench/run calls this.
"""
import csv
import json
import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 3  # per cent that a ratio may be worse


class Result:
    """What one contender did in one part, round by round."""

    def __init__(self, part, name, base, label, kernel):
        self.part = part
        self.name = name
        self.base = base
        self.label = label
        self.kernel = kernel
        self.iops = []
        self.ratios = []
        self.block = 0

    @property
    def median(self):
        return statistics.median(self.iops)

    @property
    def spread(self):
        """Highest less lowest, in per cent of the median."""
        if not self.median:
            return 0
        return 100 * (max(self.iops) - min(self.iops)) / self.median

    @property
    def ratio(self):
        return statistics.median(self.ratios)

    def record(self):
        clock, state, workload = self.part.split("/")
        return {
            "part": self.part, "clock": clock, "set": state,
            "workload": workload, "kernel": self.kernel,
            "contender": self.name, "label": self.label,
            "iops": round(self.median, 1),
            "mib_s": round(self.median * self.block / 2**20, 2),
            "spread_percent": round(self.spread, 2),
            "base": self.base, "ratio": round(self.ratio, 4),
            "ratio_low": round(min(self.ratios), 4),
            "ratio_high": round(max(self.ratios), 4),
            "runs": [round(i, 1) for i in self.iops],
        }


def read_jobs(directory):
    for name in sorted(os.listdir(directory)):
        if re.fullmatch(r"fio-\d+\.json", name):
            with open(os.path.join(directory, name)) as file:
                text = file.read()
            # fio's warnings come first
            yield from json.loads(text[text.index("{\n"):])["jobs"]


def block_size(workload):
    return int(workload.split("-")[1][:-1]) * 1024


def load(directory):
    """The results in a directory: {part: {contender: Result}}."""
    clock_and_set = "/".join(os.path.basename(directory).split("-")[:2])
    with open(os.path.join(directory, "kernel")) as file:
        kernel = file.read().strip()
    with open(os.path.join(directory, "contenders")) as file:
        contenders = [line.rstrip("\n").split("|") for line in file]
    parts = {}
    for job in read_jobs(directory):
        turn, workload, name = job["jobname"].split(":")
        if job["error"]:
            sys.exit(f"{directory}: {job['jobname']}: error {job['error']}")
        part = parts.setdefault(f"{clock_and_set}/{workload}", {})
        if not part:
            for n, base, label in contenders:
                part[n] = Result(f"{clock_and_set}/{workload}", n, base,
                                 label, kernel)
        if turn != "0":  # which is the warm-up
            part[name].iops.append(job["read"]["iops"] + job["write"]["iops"])
            part[name].block = block_size(workload)
    for part in parts.values():
        for result in part.values():
            result.ratios = [a / b if b else 0 for a, b in
                             zip(result.iops, part[result.base].iops)]
    return parts


# --- show --------------------------------------------------------------------

def print_part(part, results):
    sequential = not part.split("/")[2].startswith("rand")
    print(f"\n{part}   ({next(iter(results.values())).kernel})")
    print(f"  {'contender':30} {'MiB/s' if sequential else 'IOPS':>9}"
          f" {'spread':>8}   ratio")
    for r in results.values():
        rate = r.median * r.block / 2**20 if sequential else r.median
        print(f"  {r.label:30} {rate:9.0f} {r.spread:7.1f}%   {r.ratio:.2f}"
              f" of {r.base}")


def write_csv(path, records):
    columns = [c for c in records[0] if c != "runs"]
    with open(path, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        runs = range(max(len(r["runs"]) for r in records))
        out.writerow(columns + [f"run{i + 1}" for i in runs])
        for r in records:
            out.writerow([r[c] for c in columns] + r["runs"])


def plot(out, name, parts):
    """One plot for a clock and a set; gnuplot reads a line a workload. What
    others are compared with would always be 1 and gets no bar."""
    data = os.path.join(out, name + ".data")
    bars = [r.name for r in next(iter(parts.values())).values()
            if r.base != r.name]
    with open(data, "w") as file:
        first = next(iter(parts.values()))
        file.write("workload")
        for bar in bars:
            file.write(f' "{first[bar].label} / {first[bar].base}" low high')
        file.write("\n")
        for part, results in parts.items():
            file.write(part.split("/")[2])
            for r in (results[bar] for bar in bars):
                file.write(f" {r.ratio:.4f} {min(r.ratios):.4f}"
                           f" {max(r.ratios):.4f}")
            file.write("\n")
    clock = {"wall": "wall time", "insn": "instruction time"}
    title = "{}, {} images".format(*(clock.get(word, word)
                                     for word in part.split("/")[:2]))
    kernel = next(iter(first.values())).kernel
    subprocess.run(["gnuplot", "-e", f"data='{data}'",
                    "-e", f"picture='{os.path.join(out, name)}.png'",
                    "-e", f"heading='{title}, Linux {kernel}'",
                    "-e", f"bars={len(bars)}; groups={len(parts)}",
                    os.path.join(HERE, "plot.gp")], check=True)


def show(out, names):
    records = []
    for name in names:
        parts = load(os.path.join(out, "raw", name))
        for part, results in parts.items():
            print_part(part, results)
            records += [r.record() for r in results.values()]
        try:
            plot(out, name, parts)
        except FileNotFoundError:
            print("No plots: gnuplot is not installed.", file=sys.stderr)
    with open(os.path.join(out, "results.json"), "w") as file:
        json.dump(records, file, indent=1)
        file.write("\n")
    write_csv(os.path.join(out, "results.csv"), records)


# --- check and update --------------------------------------------------------

def by_version(release):
    return [int(n) for n in re.findall(r"\d+", release)]


def series(release):
    return by_version(release)[:2]


def find_figures(folder, release):
    """The release's own figures, or the newest of the same series, or None."""
    kept = [name[:-4] for name in os.listdir(folder) if name.endswith(".csv")]
    if release in kept:
        return release
    kept = [k for k in kept if series(k) == series(release)]
    return max(kept, key=by_version, default=None)


def read_figures(folder, release):
    with open(os.path.join(folder, release + ".csv"), newline="") as file:
        return {(row["part"], row["contender"]): float(row["ratio"])
                for row in csv.DictReader(file)}


def compared(parts):
    """The results that have a contender other than themselves as their base."""
    for results in parts.values():
        yield from (r for r in results.values() if r.base != r.name)


def judge(r, kept, source):
    """One test: prints TAP, returns whether it passed."""
    title = f"{r.part} on {r.kernel}: {r.label}"
    if kept is None:
        print(f"not ok {title}\n# {r.ratio:.4f} of {r.base}, and no figure is"
              " kept to compare with;\n# 'tests/bench/run --update-figures'"
              " writes it")
        return False
    change = 100 * (r.ratio / kept - 1)
    figures = (f"# {r.ratio:.4f} of {r.base}, kept {kept:.4f}: {change:+.1f} %,"
               f" spread {r.spread:.1f} %")
    if change < -LIMIT:
        print(f"not ok {title}\n{figures}\n# figure kept in {source}. If the"
              " change that made it slower is worth it,\n# run"
              " 'tests/bench/run --update-figures', and say why in the commit.")
        return False
    print(f"ok {title}\n{figures}")
    if change > LIMIT:
        print("# faster: 'tests/bench/run --update-figures' keeps it so")
    return True


def check(folder, directories):
    count = failed = 0
    for directory in directories:
        parts = load(directory)
        release = next(r.kernel for p in parts.values() for r in p.values())
        source = find_figures(folder, release)
        figures = read_figures(folder, source) if source else {}
        if source != release:
            print(f"# no figures for {release}: " + (f"comparing with {source}"
                  if source else "and none of its series"))
        path = os.path.relpath(os.path.join(folder, f"{source}.csv"))
        for r in compared(parts):
            count += 1
            failed += not judge(r, figures.get((r.part, r.name)), path)
    print(f"1..{count}")
    return failed == 0


def update(folder, directories):
    os.makedirs(folder, exist_ok=True)
    for directory in directories:
        results = list(compared(load(directory)))
        path = os.path.join(folder, results[0].kernel + ".csv")
        with open(path, "w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(["part", "contender", "base", "ratio"])
            for r in results:
                out.writerow([r.part, r.name, r.base, f"{r.ratio:.4f}"])
        print("wrote", os.path.relpath(path))


def main(argv):
    if len(argv) < 3 or argv[0] not in ("show", "check", "update"):
        print(__doc__, end="")
        sys.exit(0 if argv[:1] == ["--help"] else 2)
    if argv[0] == "show":
        show(argv[1], argv[2:])
    elif argv[0] == "check":
        sys.exit(0 if check(argv[1], argv[2:]) else 1)
    else:
        update(argv[1], argv[2:])


main(sys.argv[1:])
