#!/usr/bin/env python3
"""No time: Debian from power-on under each firmware, board, number of processors and disk controller.

Each cell boots a copy of the disk of `cargo xtask debian`, logs in on the serial port, looks for a login on the VGA text
console, suspends to RAM and is woken by `system_wakeup`, and powers off on `system_powerdown`. A cell ends with the
first step that does not happen in time. Prints a row a cell and exits with 1 if one failed.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import time

import common

BUSES = {
    "ide": {"pc": ["-device", "ide-hd,bus=ide.0,drive=d,bootindex=0"]},
    "ahci": {
        "pc": ["-device", "ich9-ahci,id=ahci", "-device", "ide-hd,bus=ahci.0,drive=d,bootindex=0"],
        "q35": ["-device", "ide-hd,bus=ide.0,drive=d,bootindex=0"],
    },
    "virtio-blk": {"any": ["-device", "virtio-blk-pci,drive=d,bootindex=0"]},
    "virtio-scsi": {"any": ["-device", "virtio-scsi-pci,id=s", "-device", "scsi-hd,bus=s.0,drive=d,bootindex=0"]},
    "usb": {"any": ["-device", "qemu-xhci,id=x", "-device", "usb-storage,bus=x.0,drive=d,bootindex=0"]},
}


class Failed(Exception):
    """A step that did not happen."""


class Stream:
    """A character device of the emulator: what came, and when something has come."""

    def __init__(self, path, deadline):
        self.text, self.at = "", 0
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed(f"no {os.path.basename(path)}") from None
                time.sleep(0.1)
        self.socket.settimeout(0.2)

    def send(self, text):
        self.socket.sendall(text.encode())

    def wait(self, pattern, seconds, step):
        """The match of what comes next, in text that has not been waited for before."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text[self.at:])
            if found:
                self.at += found.end()
                return found
            if time.monotonic() > deadline:
                raise Failed(f"{step}; last: {self.text[-300:]!r}")
            try:
                piece = self.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                piece = b""
            if not piece:
                raise Failed(f"{step}: closed; last: {self.text[-300:]!r}")
            self.text += piece.decode(errors="replace")


def cell(options, firmware, board, smp, bus, arguments):
    """The steps of one cell; how long each took."""
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: os.path.join(directory, name)
        subprocess.run(["cp", "--sparse=always", options.image, path("disk.img")], check=True)
        command = [
            options.program, "-machine", board, "-accel", "tcg", "-nodefaults", "-display", "none", "-vga", "std",
            "-m", "1024", "-smp", str(smp), "-drive", f"if=none,id=d,format=raw,file={path('disk.img')}", *arguments,
            "-serial", f"unix:{path('serial')},server=on,wait=off", "-qmp", f"unix:{path('qmp')},server=on,wait=off",
        ]
        command += common.firmware(firmware, path("variables.fd"))
        apart = (firmware, board) == ("seabios", "q35") or (board, bus) == ("pc", "ide")
        took = {}
        for parts in (("sleep",), ("off",)) if apart else (("sleep", "off"),):
            with open(path("errors"), "w", encoding="utf-8") as errors:
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            try:
                took |= steps(options.timeout, child, path, parts)
            except Failed as failure:
                with open(path("errors"), encoding="utf-8", errors="replace") as errors:
                    raise Failed(f"{failure} {errors.read()[-300:]}".strip()) from None
            finally:
                child.kill()
                child.wait()
                for name in filter(os.path.exists, (path("serial"), path("qmp"))):
                    os.unlink(name)
        return took


def steps(patience, child, path, parts):
    """From power-on to the last of `parts`: seconds of each step by name.

    Where a machine is started anew between its sleep and its power button, the two don't go together with QEMU 7.2, either:
    SeaBIOS on `q35` does not set power management up again after a sleep, and the guest gets no interrupt from the
    button; Linux 6.1 does not thaw an IDE port after a sleep. A reset instead would often do, but SeaBIOS 1.16 decides
    after a sleep by memory which it has given to the guest what it protects from writing, and may write-protect its own.
    """
    started, took = time.monotonic(), {}

    def done(step):
        took[step] = time.monotonic() - started - sum(took.values())

    serial = Stream(path("serial"), started + 10)
    qmp = Stream(path("qmp"), started + 10)
    qmp.wait(r'"QMP"', 10, "greeting")
    command = lambda name: qmp.send(json.dumps({"execute": name}) + "\n")
    command("qmp_capabilities")
    serial.wait(r"ouzel login:", patience, "login")
    done("login")
    serial.send("root\n")
    serial.wait(r"Password:", patience, "password")
    serial.send("ouzel\n")
    serial.wait(r"root@ouzel:\S*#", patience, "shell")
    serial.send("until grep -q login: /dev/vcs1; do sleep 1; done; nproc; echo screen-$((1+1))\n")
    processors = serial.wait(r"(\d+)\s+screen-2", patience, "login on the screen").group(1)
    took["processors"] = 0
    done("screen")
    if "sleep" in parts:
        sleep(patience, serial, qmp, command)
        done("sleep")
    if "off" in parts:
        time.sleep(2)
        command("system_powerdown")
        qmp.wait(r'"SHUTDOWN"', patience, "power-off")
        child.wait(30)
        done("off")
    took["processors"] = int(processors)
    return took


def sleep(patience, serial, qmp, command):
    """Suspends the guest to RAM and wakes it."""
    serial.send("echo mem > /sys/power/state || echo no-$((1+1)); echo awake-$((1+1))\n")
    try:
        qmp.wait(r'"SUSPEND"', patience / 4, "suspend")
    except Failed as failure:
        raise Failed(f"{failure}; the guest says {serial.text[serial.at:][-600:]!r}") from None
    time.sleep(0.5)
    command("system_wakeup")
    qmp.wait(r'"WAKEUP"', patience, "WAKEUP")
    serial.wait(r"awake-2", patience, "awake")


def cells(only):
    for firmware, board, smp, bus in itertools.product(("seabios", "ovmf"), ("pc", "q35"), (1, 2), BUSES):
        arguments = BUSES[bus].get(board) or BUSES[bus].get("any")
        name = f"{firmware} {board} {smp} {bus}"
        if arguments and re.search(only, name):
            yield name, firmware, board, smp, bus, arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", nargs="?", default=os.path.join(common.target(), "release/ouzel"))
    parser.add_argument("--image", default=os.path.join(common.target(), "guest/debian/debian.img"))
    parser.add_argument("--only", default="", help="a regular expression over 'firmware board processors bus'")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for a step")
    options = parser.parse_args()

    def run(row):
        name, firmware, board, smp, bus, arguments = row
        try:
            took = cell(options, firmware, board, smp, bus, arguments)
        except Failed as failure:
            return name, None, str(failure)
        if took.pop("processors") != smp:
            return name, None, "another number of processors"
        return name, took, ""

    bad = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, took, failure in pool.map(run, cells(options.only)):
            bad += took is None
            figures = "  ".join(f"{step} {seconds:.1f}" for step, seconds in (took or {}).items())
            print(f"{name:28} {'ok  ' + figures if took else 'FAILED ' + failure}", flush=True)
    print(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
