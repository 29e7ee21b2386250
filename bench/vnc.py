#!/usr/bin/env python3
"""What it costs to show a screen over VNC: scrolling text and a moving window, in each encoding, against QEMU.

A guest of its own (bench/guest/vnc.c) draws 40 times a second on 1024 by 768. A client on this host asks for what is new
as soon as it has it, and only takes rectangles apart as far as it must to find their ends. Frames are the updates in a
second; cost is the processor time of all threads but the vCPUs', per frame and per second; bytes are those of a frame.
"""
import argparse
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

import common

ENCODINGS = {"raw": 0, "hextile": 5, "zlib": 6, "tight": 7, "zrle": 16}


class Viewer:
    """A client that understands just enough."""

    def __init__(self, path, encoding, copies):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb", 1 << 20)
        self.count = 0
        self.take(12)
        self.socket.sendall(b"RFB 003.008\n")
        self.take(self.take(1)[0])
        self.socket.sendall(b"\1")
        self.take(4)
        self.socket.sendall(b"\1")
        self.size = struct.unpack(">HH", self.take(4))
        self.take(16)
        self.take(struct.unpack(">I", self.take(4))[0])
        wanted = [encoding] + ([1] if copies else []) + [-223]
        self.socket.sendall(struct.pack(f">BxH{len(wanted)}i", 2, len(wanted), *wanted))

    def take(self, count):
        data = self.stream.read(count)
        if len(data) != count:
            raise EOFError
        self.count += count
        return data

    def request(self, incremental):
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, *self.size))

    def update(self):
        """Reads messages up to an update with pixels."""
        while True:
            kind = self.take(1)[0]
            if kind != 0:
                raise ValueError(f"message {kind}")
            (count,) = struct.unpack(">xH", self.take(3))
            pixels = False
            for _ in range(count):
                _, _, width, height, encoding = struct.unpack(">HHHHi", self.take(12))
                if encoding == -223:
                    self.size = width, height
                    continue
                pixels = True
                self.skip(encoding, width, height)
            if pixels:
                return

    def skip(self, encoding, width, height):
        if encoding == 0:
            self.take(width * height * 4)
        elif encoding == 1:
            self.take(4)
        elif encoding in (6, 16):
            self.take(struct.unpack(">I", self.take(4))[0])
        elif encoding == 5:
            for y in range(0, height, 16):
                for x in range(0, width, 16):
                    flags = self.take(1)[0]
                    if flags & 1:
                        self.take(min(16, width - x) * min(16, height - y) * 4)
                        continue
                    self.take(4 * ((flags >> 1 & 1) + (flags >> 2 & 1)))
                    if flags & 8:
                        self.take(self.take(1)[0] * (6 if flags & 16 else 2))
        elif encoding == 7:
            control = self.take(1)[0] >> 4
            if control == 8:
                self.take(3)
                return
            row = width * 3
            if control & 4:
                if self.take(1)[0] == 1:
                    colours = self.take(1)[0] + 1
                    self.take(3 * colours)
                    row = (width + 7) // 8 if colours <= 2 else width
            if row * height < 12:
                self.take(row * height)
                return
            length = shift = 0
            while True:
                byte = self.take(1)[0]
                length |= (byte if shift == 14 else byte & 0x7F) << shift
                shift += 7
                if shift > 14 or not byte & 0x80:
                    break
            self.take(length)
        else:
            raise ValueError(f"encoding {encoding}")


def cpu_seconds(pid):
    """Of all threads but those of vCPUs."""
    ticks = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii") as file:
            name, rest = file.read().rsplit(")", 1)
        if "CPU " in name:
            continue
        fields = rest.split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def guest():
    source = os.path.join(common.REPOSITORY, "bench/guest/vnc.c")
    program = os.path.join(tempfile.gettempdir(), "ouzel-bench-vnc.elf")
    command = ["gcc", "-m32", "-O2", "-w", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-nostdlib", "-static",
               "-Wl,-Ttext=0x101000", "-Wl,--section-start=.multiboot=0x100000", "-Wl,--build-id=none", "-Wl,-N", "-o", program, source]
    subprocess.run(command, check=True)
    return program


def measure(program, scene, encoding, copies, seconds, kernel):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "vnc")
        command = [program, "-nodefaults", "-vga", "std", "-m", "64", "-accel", "tcg", "-kernel", kernel, "-append", scene,
                   "-vnc", f"unix:{path}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not os.path.exists(path):
                time.sleep(0.05)
            time.sleep(1.5)
            viewer = Viewer(path, ENCODINGS[encoding], copies)
            viewer.request(0)
            for _ in range(5):
                viewer.update()
                viewer.request(1)
            frames, bytes_before, cpu, start = 0, viewer.count, cpu_seconds(process.pid), time.monotonic()
            while time.monotonic() - start < seconds:
                viewer.update()
                viewer.request(1)
                frames += 1
            passed = time.monotonic() - start
            cpu = cpu_seconds(process.pid) - cpu
            return {"frames/s": frames / passed, "CPU ms/frame": cpu / frames * 1000, "CPU %": cpu / passed * 100,
                    "KiB/frame": (viewer.count - bytes_before) / frames / 1024}
        finally:
            process.kill()
            process.wait()


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--encodings", default=",".join(ENCODINGS))
    options = parser.parse_args()
    kernel = guest()
    programs = [options.program, options.qemu]
    for scene in ("text", "window"):
        for encoding in options.encodings.split(","):
            for copies in (False, True) if scene == "text" else (False,):
                print(f"\n{scene}, {encoding}{' with CopyRect' if copies else ''}")
                run = lambda program: measure(program, scene, encoding, copies, options.seconds, kernel)
                common.table(common.in_turn(options.rounds, programs, run), programs)
                sys.stdout.flush()


main()
