#!/usr/bin/env python3
"""Runs kvm-unit-tests under an emulator and prints a table of their results.

    run-kvm-unit-tests.py DIRECTORY EMULATOR [--compare OTHER] [--cpu MODEL] [--only NAME,…] [--logs DIRECTORY]

DIRECTORY holds the suite's x86_64 build (`x86/*.flat`); tests that exist for 32 bits only are taken from
`--directory32`. EMULATOR and OTHER are commands, e.g. "qemu-system-x86_64 -accel tcg". With OTHER, each test is run
under both and the subtests that OTHER passes and EMULATOR does not are listed.

The guests say `PASS: …`, `FAIL: …`, `SKIP: …` on the serial port and leave through isa-debug-exit with the status
(code << 1) | 1: code 0 is a pass, 63 an abort. See README.md in this directory for how to build the suite.
"""

import argparse
import dataclasses
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

LINE = re.compile(r"^(PASS|FAIL|XPASS|XFAIL|SKIP):? ?(.*?)\s*$", re.MULTILINE)
ABORT = 63


@dataclasses.dataclass(frozen=True)
class Test:
    """One run: a flat file, its processors and arguments. `cpu` is added to the model's name."""

    name: str
    file: str
    smp: int = 1
    append: str = ""
    cpu: str = ""
    bits: int = 64
    timeout: int = 90
    note: str = ""


TESTDEV = "wants QEMU's pc-testdev"
TESTS = [
    Test("x2apic", "apic", smp=2),
    Test("xapic", "apic", smp=2, cpu=",-x2apic"),
    Test("ioapic", "ioapic", smp=4, note=TESTDEV),
    Test("cmpxchg8b", "cmpxchg8b", bits=32),
    Test("smptest", "smptest", smp=2),
    Test("smptest3", "smptest", smp=3),
    Test("vmexit_cpuid", "vmexit", append="cpuid"),
    Test("vmexit_mov_to_cr8", "vmexit", append="mov_to_cr8"),
    Test("vmexit_inl_pmtimer", "vmexit", append="inl_from_pmtimer"),
    Test("vmexit_ipi", "vmexit", smp=2, append="ipi"),
    Test("vmexit_ipi_halt", "vmexit", smp=2, append="ipi_halt"),
    Test("vmexit_tscdeadline", "vmexit", append="tscdeadline"),
    Test("vmexit_cr0_wp", "vmexit", smp=2, append="toggle_cr0_wp"),
    Test("access", "access_test", timeout=300),
    Test("smap", "smap"),
    Test("smap32", "smap", bits=32),
    Test("emulator", "emulator", note=TESTDEV),
    Test("eventinj", "eventinj", note=TESTDEV),
    Test("eventinj32", "eventinj", bits=32, note=TESTDEV),
    Test("idt_test", "idt_test"),
    Test("init", "init", smp=2),
    Test("memory", "memory"),
    Test("msr", "msr"),
    Test("msr-intel", "msr", cpu=",vendor=GenuineIntel"),
    Test("realmode", "realmode", bits=32),
    Test("setjmp", "setjmp"),
    Test("setjmp32", "setjmp", bits=32),
    Test("sieve", "sieve", timeout=300),
    Test("sieve32", "sieve", bits=32, timeout=300),
    Test("syscall", "syscall"),
    Test("tsc", "tsc"),
    Test("tsc_adjust", "tsc_adjust"),
    Test("xsave", "xsave"),
    Test("rmap_chain", "rmap_chain"),
    Test("taskswitch", "taskswitch", bits=32),
    Test("taskswitch2", "taskswitch2", bits=32),
    Test("pcid-enabled", "pcid"),
    Test("pcid-disabled", "pcid", cpu=",-pcid,-invpcid"),
    Test("rdpru", "rdpru"),
    Test("umip", "umip"),
    Test("umip32", "umip", bits=32),
    Test("debug", "debug"),
    Test("hpet_read_test", "hpet_read_test", smp=2),
    Test("tscdeadline_latency", "tscdeadline_latency", append="5000 100000000 1", timeout=60),
    Test("la57", "la57"),
    Test("pku", "pku"),
    Test("hypercall", "hypercall"),
]


@dataclasses.dataclass
class Outcome:
    """What one run gave."""

    status: str
    subtests: list

    def names(self, *kinds):
        """The subtests with these results."""
        return [name for kind, name in self.subtests if kind in kinds]

    def cell(self):
        """The result for the table."""
        passed, failed, skipped = (len(self.names(*k)) for k in (("PASS", "XFAIL"), ("FAIL", "XPASS"), ("SKIP",)))
        return f"{self.status} {passed}/{failed}/{skipped}"


def run(test, emulator, options):
    """Runs one test under one emulator."""
    directory = options.directory if test.bits == 64 else options.directory32
    flat = directory / "x86" / f"{test.file}.flat"
    if not flat.exists():
        return Outcome("not built", [])
    with tempfile.NamedTemporaryFile(suffix=".serial") as serial:
        command = shlex.split(emulator) + [
            "-cpu", options.cpu + test.cpu, "-smp", str(test.smp), "-m", "512", "-nodefaults", "-no-reboot",
            "-display", "none", "-serial", f"file:{serial.name}",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(flat),
        ]  # fmt: skip
        if test.append:
            command += ["-append", test.append]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=test.timeout * options.patience,
                check=False,
            )
            status, errors = exit_name(done.returncode), done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired:
            status, errors = "timeout", ""
        text = pathlib.Path(serial.name).read_text(errors="replace")
    if options.logs:
        label = pathlib.Path(shlex.split(emulator)[0]).name
        (options.logs / f"{test.name}.{label}.log").write_text(f"{shlex.join(command)}\n{errors}{text}{status}\n")
    return Outcome(status, LINE.findall(text))


def exit_name(code):
    """The meaning of an emulator's exit status."""
    if code < 0:
        return f"signal {-code}"
    if code == 0:
        return "reset"  # A triple fault or a power-off, with -no-reboot.
    if code & 1 == 0:
        return f"exit {code}"
    return {0: "pass", 1: "fail", ABORT: "abort", 77 >> 1: "skip"}.get(code >> 1, f"code {code >> 1}")


def main():
    """Runs the tests and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("emulator")
    parser.add_argument("--directory32", type=pathlib.Path, help="the i386 build of the suite")
    parser.add_argument("--compare", metavar="OTHER", help="another emulator's command, as the baseline")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--only", help="names of tests, separated by commas")
    parser.add_argument("--logs", type=pathlib.Path, help="directory for the guests' outputs")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time limits")
    options = parser.parse_args()
    options.directory32 = options.directory32 or options.directory
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else None
    tests = [test for test in TESTS if not wanted or test.name in wanted]
    emulators = [options.emulator] + ([options.compare] if options.compare else [])
    print("status passed/failed/skipped")
    print("| test | " + " | ".join(pathlib.Path(shlex.split(e)[0]).name for e in emulators) + " | differs |")
    print("| --- " * (len(emulators) + 2) + "|")
    worse = 0
    for test in tests:
        outcomes = [run(test, emulator, options) for emulator in emulators]
        missing = []
        if len(outcomes) == 2:
            mine = set(outcomes[0].names("PASS"))
            missing = [name for name in dict.fromkeys(outcomes[1].names("PASS")) if name not in mine]
            worse += bool(missing) or (outcomes[1].status == "pass") > (outcomes[0].status == "pass")
        elif outcomes[0].status not in ("pass", "skip"):
            worse += 1
        remarks = [f"lacks: {'; '.join(missing[:4])}" + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")]
        remarks = (remarks if missing else []) + ([test.note] if test.note else [])
        print(f"| {test.name} | " + " | ".join(o.cell() for o in outcomes) + f" | {'. '.join(remarks)} |", flush=True)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
