#!/usr/bin/env python3
"""QEMU's device tests (tests/qtest) with QEMU and with Ouzel, as a table.

    run-qtest.py PROGRAMS EMULATOR [--baseline TSV] [--tiers AB] [--only NAME,...] [--peer QEMU] [--out DIRECTORY]

PROGRAMS is the build directory of QEMU's source package: `./configure --target-list=x86_64-softmmu
--without-default-features` and `ninja tests/qtest/NAME` for each program (nothing else needs to be built). EMULATOR is
the program to test; it is called through a link with the name qemu-system-x86_64, by which the tests know the
architecture. A program runs as a whole, then each subtest that did not pass alone. With --baseline (columns: rank, tier,
program, subtests, pass, ...) the peer's results are taken from there; otherwise --peer runs, too. Outputs of what failed
go to DIRECTORY.
"""
import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time

# Tenths of a second that a test may be without an emulator.
GRACE = 25


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs")
    parser.add_argument("emulator")
    parser.add_argument("--baseline")
    parser.add_argument("--tiers", default="AB")
    parser.add_argument("--only", type=lambda names: names.split(","))
    parser.add_argument("--peer")
    parser.add_argument("--out")
    parser.add_argument("--timeout", type=float, default=60)
    return parser.parse_args()


def environment(emulator, directory, programs):
    """The variables that point the tests to a program, through a link with the name that they expect."""
    os.makedirs(directory, exist_ok=True)
    link = os.path.join(directory, "qemu-system-x86_64")
    if not os.path.lexists(link):
        os.symlink(os.path.abspath(emulator), link)
    images = {name: path for name, path in (("QTEST_QEMU_IMG", "/usr/bin/qemu-img"),) if os.path.exists(path)}
    # Some tests make files in the directory `tests` of where they run.
    return {**os.environ, **images, "QTEST_QEMU_BINARY": link, "G_TEST_DBUS_DAEMON": "/bin/true", "OUZEL_QTEST_CWD": programs}


def group_size(group):
    """How many processes of a process group have not ended."""
    size = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                # Behind the name in parentheses: state, parent, group.
                state, _, its_group = file.read().rpartition(")")[2].split()[:3]
            size += state != "Z" and int(its_group) == group
        except (FileNotFoundError, ProcessLookupError):
            pass
    return size


def call(command, variables, timeout):
    """Output and status of a program that may hang; what it started dies with it."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True, cwd=variables["OUZEL_QTEST_CWD"])
        status, alone, end = None, 0, time.monotonic() + timeout
        while status is None:
            # A test whose emulator has ended at once waits for it for long.
            alone = alone + 1 if group_size(process.pid) < 2 else 0
            if alone > GRACE or time.monotonic() > end:
                status = "no emulator" if alone > GRACE else "timeout"
                break
            try:
                status = process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, 9)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        return output.read().decode(errors="replace"), status


def subtests(program, variables, timeout):
    """The subtests that a program has: some ask the emulator first."""
    text, _ = call([program, "-l"], variables, timeout)
    return [line.strip() for line in text.splitlines() if line.startswith("/")]


def passes(text):
    """Names of the subtests that a program reports as passed."""
    lines = re.findall(r"^ok \d+ (\S+)(.*)$", text, re.M)
    return {name for name, rest in lines if "# SKIP" not in rest}


def run(program, variables, options, log):
    """Names of the subtests, and those that passed: all in a row, and those that did not pass so alone, since the first
    failure ends a program, and since some go on where the one before has left the machine."""
    names = subtests(program, variables, options.timeout)
    whole, _ = call([program, "--tap", "-k"], variables, options.timeout * 5)
    passed = passes(whole)
    for name in names:
        if name in passed:
            continue
        text, status = call([program, "--tap", "-k", "-p", name], variables, options.timeout)
        if status == 0 and name in passes(text):
            passed.add(name)
        else:
            log(name, status, text)
    return names, [name for name in names if name in passed]


def main():
    options = arguments()
    baseline = {}
    if options.baseline:
        with open(options.baseline, newline="") as file:
            baseline = {row["program"]: row for row in csv.DictReader(file, delimiter="\t")}
    names = options.only or [name for name, row in baseline.items() if row["tier"] in options.tiers]
    programs = os.path.abspath(options.programs)
    directory = os.path.join(programs, "tests", "qtest")
    out = options.out and os.makedirs(options.out, exist_ok=True) or options.out
    with tempfile.TemporaryDirectory() as scratch:
        ours = environment(options.emulator, os.path.join(scratch, "ours"), programs)
        peer = options.peer and environment(options.peer, os.path.join(scratch, "peer"), programs)
        print("| program | subtests | QEMU | Ouzel | failing |\n| --- | --- | --- | --- | --- |", flush=True)
        total = [0, 0, 0]
        for name in names:
            program = os.path.join(directory, name)
            if not os.path.exists(program):
                print(f"| {name} | | | | not built |", flush=True)
                continue

            def log(subtest, status, text):
                if out:
                    path = os.path.join(out, name + subtest.replace("/", "_") + ".log")
                    with open(path, "w") as file:
                        file.write(f"status {status}\n{text}")

            known, passed = run(program, ours, options, log)
            if peer:
                peer_known, peer_passed = run(program, peer, options, lambda *_: None)
                known, peer_count = peer_known, len(peer_passed)
            else:
                row = baseline.get(name, {})
                peer_count = int(row.get("pass") or 0)
            count = max(len(known), int(baseline.get(name, {}).get("subtests") or 0))
            failing = " ".join(subtest for subtest in known if subtest not in passed)
            print(f"| {name} | {count} | {peer_count} | {len(passed)} | {failing} |", flush=True)
            total = [total[0] + count, total[1] + peer_count, total[2] + len(passed)]
        print(f"| all | {total[0]} | {total[1]} | {total[2]} | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
