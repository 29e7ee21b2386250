#!/usr/bin/env python3
"""Start to QMP greeting, resident memory, and the query-status round trip, as ratios to QEMU."""
import argparse
import re
import subprocess

import common

ROUND_TRIPS = 2000
GUEST = ["-S", "-m", "128", "-nodefaults", "-display", "none"]
NAMES = {
    "greeting_ms": "start to greeting, ms",
    "rss_kib": "resident memory, KiB",
    "pss_kib": "proportional memory, KiB",
    "rtt_us": "query-status, us (median)",
    "rtt_p99_us": "query-status, us (99 %)",
    "quit_ms": "quit to exit, ms",
}


def measure(bench, program):
    """One start of `program`."""
    command = [bench, "1", str(ROUND_TRIPS), program, *GUEST]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    line = next(line for line in text.splitlines() if line.startswith("MEDIAN"))
    figures = {key: float(value) for key, value in re.findall(r"(\w+) ([\d.]+)", line)}
    return {title: figures[key] for key, title in NAMES.items()}


def main():
    options = common.arguments(argparse.ArgumentParser(description=__doc__)).parse_args()
    bench = common.compiled("qmpbench")
    programs = [options.program, options.qemu]
    print(f"{' '.join(GUEST)}; {options.rounds} starts of each in turn, {ROUND_TRIPS} round trips a start; medians")
    common.table(common.in_turn(options.rounds, programs, lambda program: measure(bench, program)), programs)


if __name__ == "__main__":
    main()
