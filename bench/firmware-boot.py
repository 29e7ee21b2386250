#!/usr/bin/env python3
"""A Debian disk from power-on: seconds to GRUB's menu entry, to the kernel's first line and to the login, as ratios to QEMU.

The disk is that of `cargo xtask debian`, each boot on a copy. The kernel's first line is what GRUB's `echo` precedes;
GRUB's own delay (three seconds of its menu) is part of all figures of both.
"""
import argparse
import os
import resource
import subprocess
import tempfile
import time

import common

MARKS = {"to GRUB's entry, s": b"loading Debian", "to the kernel, s": b"Linux version", "to the login, s": b"ouzel login:"}


def boot(program, options):
    """One boot of a copy of the image; the times of `MARKS` and the processor time until the login."""
    with tempfile.TemporaryDirectory() as directory:
        disk = os.path.join(directory, "disk.img")
        # A sparse copy is a second's work.
        subprocess.run(["cp", "--sparse=always", options.image, disk], check=True)
        serial = os.path.join(directory, "serial")
        open(serial, "wb").close()
        arguments = [
            "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-vga", "std", "-m", "1024", "-smp", options.smp,
            "-drive", f"if=none,id=d,format=raw,file={disk}", "-device", f"{options.bus},drive=d", "-serial", f"file:{serial}",
            *common.firmware(options.firmware, os.path.join(directory, "variables.fd")),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        child = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL)
        found = {}
        try:
            while len(found) < len(MARKS):
                now = time.monotonic() - started
                if now > options.timeout or child.poll() is not None:
                    raise SystemExit(f"{program} did not reach its login; it got to {list(found)}")
                with open(serial, "rb") as file:
                    text = file.read()
                for name, mark in MARKS.items():
                    if name not in found and mark in text:
                        found[name] = now
                time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["processor time, s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return found


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    default = os.path.join(common.target(), "guest/debian/debian.img")
    parser.add_argument("--image", default=os.environ.get("OUZEL_DEBIAN", default))
    parser.add_argument("--bus", default="virtio-blk-pci", help="the disk's device: ide-hd, virtio-blk-pci …")
    parser.add_argument("--smp", default="1")
    parser.add_argument("--firmware", default="seabios", choices=["seabios", "ovmf"])
    parser.add_argument("--timeout", type=float, default=300)
    options = parser.parse_args()
    programs = [options.program, options.qemu]
    print(f"{options.firmware}, {options.bus}, {options.smp} processor(s); {options.rounds} boots of each in turn after a warm-up; medians")
    measure = lambda program: boot(program, options)
    common.table(common.in_turn(options.rounds, programs, measure), programs)


if __name__ == "__main__":
    main()
