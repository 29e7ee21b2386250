#!/usr/bin/env python3
"""Kills the emulator (SIGKILL) again and again while its guest writes blocks that it makes stable one by one.

After each kill the image must pass `qemu-img check` (leaked clusters are fine) and hold every block that the guest
had acknowledged. Ends with exit code 1 at the first lost block or broken image.
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile
import time

import common

BLOCK, SLOTS, STEP = 4096, 16384, 37


def boot(options, image, base):
    """The emulator with a guest that logs to `image`, numbering from `base`."""
    return subprocess.Popen(
        [
            options.program, "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "256",
            "-kernel", os.path.join(options.guests, "vmlinuz"), "-initrd", os.path.join(options.guests, "initrd.cpio"),
            "-append", f"console=ttyS0 quiet no_timer_check ouzel.run=virtio,disk-log ouzel.base={base}", "-serial", "stdio",
            "-drive", f"if=none,id=d,file={image},format={options.format},cache={options.cache}",
            "-device", "virtio-blk-pci,drive=d",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def run_and_kill(options, image, base):
    """One boot; the highest number that was acknowledged before the kill."""
    emulator = boot(options, image, base)
    os.set_blocking(emulator.stdout.fileno(), False)
    text, end, deadline = b"", None, time.monotonic() + options.timeout
    while end is None or time.monotonic() < end:
        if time.monotonic() > deadline or emulator.poll() is not None:
            emulator.kill()
            sys.exit(f"the guest never wrote:\n{text[-1000:].decode(errors='replace')}\n{emulator.stderr.read().decode()}")
        text += emulator.stdout.read() or b""
        if end is None and b"ACK " in text:
            end = time.monotonic() + random.uniform(0.05, options.seconds)
        time.sleep(0.002)
    emulator.kill()
    emulator.wait()
    text += emulator.stdout.read() or b""
    lines = text.replace(b"\r", b"").split(b"\n")[:-1]
    return max(int(line[4:]) for line in lines if line.startswith(b"ACK "))


def verify(options, image, acknowledged):
    """Checks the image; `acknowledged` is the highest number for each slot."""
    check = subprocess.run([options.img, "check", "-f", options.format, image], capture_output=True)
    if check.returncode not in (0, 3) and options.format != "raw":
        sys.exit(f"the image is broken:\n{check.stdout.decode()}{check.stderr.decode()}")
    plain = image + ".raw"
    subprocess.run([options.img, "convert", "-f", options.format, "-O", "raw", image, plain], check=True)
    with open(plain, "rb") as disk:
        for slot, number in acknowledged.items():
            disk.seek(slot * BLOCK)
            found = disk.read(BLOCK).strip(b" \0")
            # The block may hold a later number that was written and not yet acknowledged.
            if not found.isdigit() or int(found) < number:
                sys.exit(f"block {slot} should hold {number} and holds {found[:40]}")
    os.unlink(plain)
    return check.returncode == 3


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    parser.set_defaults(rounds=200)
    parser.add_argument("--guests", default=os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")))
    parser.add_argument("--img", default="qemu-img", help="the image tool that checks and converts")
    parser.add_argument("--format", default="qcow2")
    parser.add_argument("--options", default="", help="options of `qemu-img create -o`")
    parser.add_argument("--cache", default="writeback")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest time from the first block to the kill")
    parser.add_argument("--timeout", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        image = os.path.join(directory, "disk")
        create = [options.img, "create", "-q", "-f", options.format] + (["-o", options.options] if options.options else [])
        subprocess.run([*create, image, str(SLOTS * BLOCK)], check=True)
        acknowledged, number, leaks = {}, 0, 0
        for kill in range(options.rounds):
            last = run_and_kill(options, image, number)
            for one in range(number + 1, last + 1):
                acknowledged[one * STEP % SLOTS] = one
            leaks += verify(options, image, acknowledged)
            number = last + 1
            if kill % 10 == 9:
                print(f"{kill + 1} kills, {number} blocks acknowledged, {leaks} images with leaks, nothing lost", flush=True)


if __name__ == "__main__":
    main()
