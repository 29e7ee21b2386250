#!/usr/bin/env python3
"""Boots the same guest under both emulators and shows where the kernel's logs differ.

Times, addresses and what is different on every boot are made equal first. Lines are compared as a set with their
number, because drivers race; `-` is QEMU's alone, `+` the emulator's alone.
"""
import argparse
import collections
import os
import re
import subprocess

import common

#: What is different on every boot, or measures the host.
NOISE = [
    (r"^\[ *\d+\.\d+\] ", ""),
    (r"0x[0-9a-f]{6,}", "0xX"),
    (r"\b[0-9a-f]{12,16}\b", "X"),
    (r"\b\d+\.\d+ (MHz|BogoMIPS)", r"N \1"),
    (r"\b\d+ (ns|usecs?|ms|us|cycles)\b", r"N \1"),
    (r"\(lpj=\d+\)", "(lpj=N)"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d UTC \(\d+\)", "DATE"),
    (r"(audit\()\d+\.\d+:\d+", r"\1N"),
    (r"hash/[0-9a-f]+", "hash/X"),
    (r"\b\d+K\b", "NK"),
]


def log(program, options):
    """The kernel's log of one boot, with noise removed."""
    command = [
        program, "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "256", "-smp", options.smp,
        "-kernel", os.path.join(options.guests, "vmlinuz"), "-initrd", os.path.join(options.guests, "initrd.cpio"),
        "-append", "console=ttyS0 quiet ouzel.run=dmesg,poweroff", "-serial", "stdio",
    ]
    output = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=options.timeout).stdout
    text = output.decode(errors="replace").replace("\r", "")
    if "DMESG-END" not in text:
        raise SystemExit(f"{program} did not boot to the end of its log:\n{text[-2000:]}")
    lines = text.split("DMESG-BEGIN\n")[1].split("DMESG-END")[0].splitlines()
    for pattern, replacement in NOISE:
        lines = [re.sub(pattern, replacement, line) for line in lines]
    return lines


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--guests", default=os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")))
    parser.add_argument("--smp", default="1")
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args()
    ours, theirs = log(options.program, options), log(options.qemu, options)
    left, right = collections.Counter(theirs), collections.Counter(ours)
    only_theirs, only_ours = left - right, right - left
    for line in theirs:
        if only_theirs[line] > 0:
            only_theirs[line] -= 1
            print("-", line)
    for line in ours:
        if only_ours[line] > 0:
            only_ours[line] -= 1
            print("+", line)
    print(f"{len(theirs)} lines under QEMU, {len(ours)} here; "
          f"{sum((left - right).values())} of QEMU's alone, {sum((right - left).values())} of ours")


if __name__ == "__main__":
    main()
