#!/usr/bin/env python3
"""The demo guest from start to power-off: wall and processor time, as ratios to QEMU's translator."""
import argparse
import os
import resource
import subprocess
import time

import common


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--guests", default=os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")),
                        help="the directory of `cargo xtask guest`")
    parser.add_argument("--run", default="loop,md5,poweroff", help="what the guest does (guests/init)")
    parser.add_argument("--smp", default="1")
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args()
    arguments = [
        "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "256", "-smp", options.smp,
        "-kernel", os.path.join(options.guests, "vmlinuz"), "-initrd", os.path.join(options.guests, "initrd.cpio"),
        "-append", f"console=ttyS0 quiet ouzel.run={options.run}", "-serial", "stdio",
    ]

    def measure(program):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        # An open standard input: the serial port is a terminal's.
        result = subprocess.run([program, *arguments], stdin=subprocess.PIPE, capture_output=True, timeout=options.timeout)
        wall = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if b"GUEST-DONE" not in result.stdout:
            raise SystemExit(f"{program} did not boot:\n{result.stdout[-2000:].decode(errors='replace')}\n{result.stderr.decode()}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"boot to power-off, s": wall, "processor time, s": used}

    programs = [options.program, options.qemu]
    print(f"{options.run} on {options.smp} processor(s); {options.rounds} boots of each in turn after a warm-up; medians")
    common.table(common.in_turn(options.rounds, programs, measure), programs)


if __name__ == "__main__":
    main()
