#!/usr/bin/env python3
"""The software CPU's speed: every workload natively, under QEMU and under Ouzel in turn, as one table.

Each round runs `run.py` of the workloads' directory for both emulators with one native run between them; medians over
the rounds. All times are processor seconds per unit of work (user and system, all threads of the emulator), since the
machine is rarely quiet. Then, with a small guest of this directory: boot to the shell, resident memory and translated
code after it, and how much faster two threads on two vCPUs are than one.

A figure that misses what is wanted of it is marked `<`. Nothing is decided here: the status is 0 unless a run failed.
"""
import argparse
import csv
import json
import math
import os
import re
import select
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import common

WORKLOADS = os.path.join(common.REPOSITORY, "..", "shared", "bench", "cpu")
HERE = os.path.join(common.REPOSITORY, "bench", "guest")
FLOATING = ["nbody", "matmul", "mandelf", "libm", "simdint", "x87mandel"]
# How many times QEMU's speed each has to be; every other workload: 1.
WANTED = dict.fromkeys(FLOATING, 8) | dict.fromkeys(["coldcode", "smcjit", "smcpatch", "mixpage"], 5)
WANTED |= dict.fromkeys(["fork", "pipe", "signal", "fileio"], 2) | {"repmovs": 50}
WANTED_MEAN, WANTED_SCALING = 2.5, 1.8
PARALLEL_UNITS = 256
GUEST = ["-m", "1024", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]


def log(text):
    """What is being done, to standard error."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def options():
    """The command line."""
    parser = common.arguments(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--accel", default="tcg", help="Ouzel's -accel")
    parser.add_argument("--cpu", default="max", help="the CPU model of both")
    parser.add_argument("--kernel", default=os.path.join(os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")), "vmlinuz"))
    parser.add_argument("--workloads", default=WORKLOADS, help="the directory with build-initrd.sh and run.py")
    parser.add_argument("--out", default=os.path.join(common.target(), "bench", "cpu"), help="where they are built")
    parser.add_argument("--only", default="", help="workloads, separated by commas")
    parser.add_argument("--skip", default="")
    parser.add_argument("--sec", type=float, default=1.0, help="least time of each workload on the guest's clock")
    parser.add_argument("--units", type=int, default=3, help="least number of units of each workload")
    parser.add_argument("--parts", default="workloads,boot,scaling", help="what to measure")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--reuse", metavar="JSON", help="native and QEMU figures from an earlier run's file")
    parser.add_argument("--baseline", metavar="JSON", help="adds the ratio to Ouzel's figures in an earlier run's file")
    parser.add_argument("--timeout", type=float, default=3600, help="of one guest")
    return parser.parse_args()


def command(program, accel, cpu, smp):
    """An emulator's command line up to the guest."""
    return [*shlex.split(program), "-accel", accel, "-cpu", cpu, "-smp", str(smp), *GUEST]


def build(chosen):
    """Builds the workloads and the small guest, where they are missing."""
    if not os.path.exists(os.path.join(chosen.out, "initrd-full.cpio")):
        log("building the workloads")
        subprocess.run([os.path.join(chosen.workloads, "build-initrd.sh"), chosen.out], check=True, stdout=subprocess.DEVNULL)
    stage = os.path.join(chosen.out, "parallel")
    shutil.rmtree(stage, ignore_errors=True)
    for directory in ["bin", "dev", "proc"]:
        os.makedirs(os.path.join(stage, directory))
    subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", os.path.join(stage, "bin/parallel"), os.path.join(HERE, "parallel.c")], check=True)
    shutil.copy(os.path.join(chosen.out, "stage/bin/busybox"), os.path.join(stage, "bin/busybox"))
    shutil.copy(os.path.join(HERE, "init"), os.path.join(stage, "init"))
    os.chmod(os.path.join(stage, "init"), 0o755)
    initrd = os.path.join(chosen.out, "parallel.cpio")
    with open(initrd, "wb") as output:
        names = subprocess.run(["find", "."], cwd=stage, check=True, capture_output=True).stdout
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=stage, check=True, input=names, stdout=output)
    return initrd


def workloads(chosen, label, emulator, native):
    """One run of all the workloads under one emulator: rows by name."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as output:
        words = [sys.executable, os.path.join(chosen.workloads, "run.py"), "--out", chosen.out, "--kernel", chosen.kernel,
                 "--rounds", "1", "--sec", str(chosen.sec), "--minunits", str(chosen.units), "--label", label,
                 "--csv", output.name, "--native-csv", native, "--timeout", str(chosen.timeout),
                 "--cpu", str((os.cpu_count() or 1) - 1),
                 "--emu", shlex.join(emulator) + " -kernel {kernel} -initrd {initrd} -append {append}"]
        words += ["--only", chosen.only] if chosen.only else []
        words += ["--skip", chosen.skip] if chosen.skip else []
        result = subprocess.run(words, capture_output=True, text=True)
        if result.returncode != 0:
            log(f"{label}: {result.stdout[-1000:]}{result.stderr[-3000:]}")
        with open(output.name) as text:
            rows = {row["name"]: row for row in csv.DictReader(text)}
    return rows


def measure_workloads(chosen, emulators):
    """Medians by workload and column."""
    found = {}
    for number in range(chosen.rounds):
        with tempfile.TemporaryDirectory() as directory:
            native = os.path.join(directory, "native.csv")
            for label, emulator in emulators.items():
                log(f"workloads, round {number + 1} of {chosen.rounds}: {label}")
                for name, row in workloads(chosen, label, emulator, native).items():
                    if name == "_boot":
                        continue
                    entry = found.setdefault(name, {"flags": set()})
                    entry["flags"].update(f"{label}:{flag}" for flag in row["flags"].split() if flag != "CLOCK")
                    if row["emu_s"]:
                        entry.setdefault(label, []).append(float(row["emu_s"]))
                        entry.setdefault("native", []).append(float(row["native_s"]))
    return {name: {key: sorted(value) if key == "flags" else statistics.median(value) for key, value in entry.items()}
            for name, entry in found.items()}


def processor_time(pid):
    """Seconds that all threads of a process have run."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as text:
                total += int(text.read().split()[0])
        except OSError:
            pass  # It has ended meanwhile.
    return total * 1e-9


def resident(pid):
    """Resident memory in KiB."""
    with open(f"/proc/{pid}/status") as text:
        return int(re.search(r"VmRSS:\s+(\d+)", text.read())[1])


class Guest:
    """The small guest under one emulator, with its console and a monitor."""

    def __init__(self, words, kernel, initrd):
        self.directory = tempfile.TemporaryDirectory()
        self.monitor = os.path.join(self.directory.name, "qmp")
        words = [*words, "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1",
                 "-qmp", f"unix:{self.monitor},server=on,wait=off"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text = b""

    def line(self, beginning, timeout):
        """Waits for a line and returns it with the wall and processor time at its arrival."""
        deadline = time.monotonic() + timeout
        while True:
            *lines, rest = self.text.split(b"\n")
            for number, line in enumerate(lines):
                line = line.decode(errors="replace").strip()
                if line.startswith(beginning):
                    self.text = b"\n".join([*lines[number + 1:], rest])
                    return line, time.monotonic() - self.started, processor_time(self.process.pid)
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise SystemExit(f"no line {beginning!r} from {self.process.args}:\n{self.text[-2000:].decode(errors='replace')}")
            self.text += more

    def send(self, line):
        """Types a line."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def query(self, name, **arguments):
        """One QMP command's answer, or None if it fails."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self.monitor)
            lines = stream.makefile("rw")
            lines.readline()
            for request in [{"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}]:
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
        return answer.get("return")

    def end(self):
        """Ends the emulator."""
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()


def translated(guest):
    """Bytes of translated code from the text of `x-query-jit`: "gen code size 12,345/1073741824"; None without it."""
    answer = guest.query("x-query-jit")
    match = re.search(r"gen code size\s+([\d,]+)", (answer or {}).get("human-readable-text", ""))
    return int(match[1].replace(",", "")) if match else None


def boot(words, chosen, initrd):
    """Boot to the shell, and the memory after it."""
    guest = Guest(words, chosen.kernel, initrd)
    try:
        line, wall, processor = guest.line("SHELL", chosen.timeout)
        figures = {"wall": wall, "processor": processor, "guest uptime": float(line.split()[1])}
        time.sleep(0.2)
        figures["resident KiB"] = resident(guest.process.pid)
        code = translated(guest)
        return figures | ({} if code is None else {"translated bytes": code})
    finally:
        guest.end()


def scaling(words, chosen, initrd):
    """The same work on one and on two threads of a guest with two vCPUs."""
    guest = Guest(words, chosen.kernel, initrd)
    try:
        guest.line("SHELL", chosen.timeout)
        figures, sums = {}, set()
        guest.send(f"parallel 1 {PARALLEL_UNITS // 8}")  # A warm-up.
        guest.line("STOP", chosen.timeout)
        for threads in [1, 2]:
            guest.send(f"parallel {threads} {PARALLEL_UNITS}")
            _, _, before = guest.line("START", chosen.timeout)
            line, _, after = guest.line("PARALLEL", chosen.timeout)
            figures[f"wall {threads}"] = float(re.search(r"wall=(\S+)", line)[1])
            figures[f"processor {threads}"] = after - before
            sums.add(re.search(r"sum=(\S+)", line)[1])
        if len(sums) != 1:
            log(f"the parallel workload's sums differ: {sums}")
        # On a busy machine the wall time says little; what the second thread costs in processor time says more.
        figures["wall ratio"] = figures["wall 1"] / figures["wall 2"]
        figures["processor ratio"] = 2 * figures["processor 1"] / figures["processor 2"]
        return figures
    finally:
        guest.end()


def medians(rounds):
    """The median of each figure that every round has."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0] if all(name in f for f in rounds)}


def mean(values):
    """The geometric mean."""
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def ratio(entry, dividend, divisor):
    """One column by another, if both are there."""
    return entry[dividend] / entry[divisor] if entry.get(dividend) and entry.get(divisor) else None


def shown(value, width, places=2):
    """A figure, or a dash."""
    return f"{'-' if value is None else format(value, f'.{places}f'):>{width}}"


def print_workloads(table, base):
    """The table of the workloads with their geometric means."""
    columns = [("QEMU/native", "qemu", "native"), ("Ouzel/native", "ouzel", "native"), ("QEMU/Ouzel", "qemu", "ouzel")]
    print(f"{'workload':14}{'native s':>10}{'QEMU s':>10}{'Ouzel s':>10}{'QEMU/nat.':>11}{'Ouzel/nat.':>11}{'QEMU/Ouzel':>11}{'wanted':>7}"
          + (f"{'base/now':>10}" if base else ""))
    for name, entry in table.items():
        wanted = WANTED.get(name, 1)
        gain = ratio(entry, "qemu", "ouzel")
        cells = "".join(shown(entry.get(key), 10, 5) for key in ["native", "qemu", "ouzel"])
        cells += "".join(shown(ratio(entry, dividend, divisor), 11) for _, dividend, divisor in columns)
        cells += f"{wanted:>6}" + ("<" if gain is not None and gain < wanted else " ")
        if base:
            cells += shown(base.get(name, {}).get("ouzel", 0) / entry["ouzel"] if entry.get("ouzel") else None, 10)
        print(f"{name:14}{cells}  {' '.join(entry['flags'])}".rstrip())
    for title, dividend, divisor in columns:
        for group, names in [("all", list(table)), ("floating point and vectors", FLOATING)]:
            values = [ratio(table[name], dividend, divisor) for name in names if name in table]
            print(f"geometric mean {title}, {group}: {mean(values):.2f}" + (f" (wanted {WANTED_MEAN if group == 'all' else 8})" if divisor == "ouzel" else ""))


def print_pair(title, figures):
    """Figures of both emulators beside each other."""
    print(f"\n{title:28}{'QEMU':>14}{'Ouzel':>14}{'Ouzel/QEMU':>12}")
    names = dict.fromkeys(name for label in ["qemu", "ouzel"] for name in figures.get(label, {}))
    for name in names:
        theirs, ours = (figures.get(label, {}).get(name) for label in ["qemu", "ouzel"])
        print(f"{name:28}{shown(theirs, 14)}{shown(ours, 14)}{shown(ours / theirs if ours and theirs else None, 12)}")


def main():
    chosen = options()
    parts = chosen.parts.split(",")
    initrd = build(chosen)
    both = {"qemu": (chosen.qemu, "tcg"), "ouzel": (chosen.program, chosen.accel)}
    old = json.load(open(chosen.reuse)) if chosen.reuse else {}
    measured = {label: pair for label, pair in both.items() if label == "ouzel" or not old}
    with_processors = lambda count: {label: command(*pair, chosen.cpu, count) for label, pair in measured.items()}
    result = {"date": time.strftime("%Y-%m-%d %H:%M"), "rounds": chosen.rounds, "cpu": chosen.cpu, "accel": chosen.accel}
    if "workloads" in parts:
        table = measure_workloads(chosen, with_processors(1))
        for name, entry in table.items():
            before = old.get("workloads", {}).get(name, {})
            entry.update({key: before[key] for key in ["native", "qemu"] if key in before})
        result["workloads"] = table
    for part, measure, processors in [("boot", boot, 1), ("scaling", scaling, 2)]:
        if part in parts:
            rounds = {label: [] for label in measured}
            for number in range(chosen.rounds):
                for label, words in with_processors(processors).items():
                    log(f"{part}, round {number + 1}: {label}")
                    rounds[label].append(measure(words, chosen, initrd))
            result[part] = {label: old[part][label] for label in ["qemu"] if part in old and old} | {label: medians(r) for label, r in rounds.items()}
    if chosen.json:
        with open(chosen.json, "w") as output:
            json.dump(result, output, indent=1)
    print(f"{result['date']}; {chosen.rounds} round(s), -cpu {chosen.cpu}, Ouzel -accel {chosen.accel}; processor seconds per unit, medians")
    base = json.load(open(chosen.baseline)) if chosen.baseline else {}
    if "workloads" in result:
        print_workloads(result["workloads"], base.get("workloads"))
    if "boot" in result:
        print_pair("boot to the shell, s", result["boot"])
    if "scaling" in result:
        print_pair("two vCPUs", result["scaling"])
        print(f"wanted: a ratio of {WANTED_SCALING}")


if __name__ == "__main__":
    main()
