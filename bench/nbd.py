#!/usr/bin/env python3
"""Exports over NBD, Ouzel against QEMU in turn on the same machine: wall time and the server's processor time.

    bench/nbd.py DIRECTORY-WITH-OUZEL'S-PROGRAMS [RUNS]

A raw and a qcow2 image of 1 GiB on tmpfs behind `ouzel-nbd` and `ouzel-storage`, and behind `qemu-nbd` and
`qemu-storage-daemon`: nbdcopy in both directions with one and with four connections, fio's nbd engine with random 4 KiB
reads and writes at depth 1 and 16. Prints the medians and the ratios QEMU / Ouzel (more than 1: Ouzel is better) of time
and of the server's processor time for one unit of work. Needs nbdcopy, fio with the nbd engine, qemu-utils and
qemu-storage-daemon. SECONDS=2 is the length of a fio run.
"""
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

import common

GIB = 1 << 30
SECONDS = os.environ.get("SECONDS_FIO", "2")
ROOT = os.environ.get("BENCH_DIR", "/dev/shm/ouzel-nbd-bench")


class Server:
    """A server of one image under the name `x`."""

    def __init__(self, program, form, image):
        self.socket = f"{ROOT}/s{os.getpid()}"
        if "storage" in os.path.basename(program):
            command = [
                program, "--blockdev", f"file,node-name=f,filename={image},discard=unmap",
                "--blockdev", f"{form},node-name=n,file=f,discard=unmap",
                "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                "--export", "nbd,id=e,node-name=n,name=x,writable=on",
            ]
        else:
            command = [program, "-k", self.socket, "-x", "x", "-f", form, "-t", "-e", "0", "--discard=unmap", image]
        self.process = subprocess.Popen(command)
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket)
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{program} ended") from None
                time.sleep(0.02)
        self.uri = f"nbd+unix:///x?socket={self.socket}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def copy(server, arguments):
    """Seconds and processor seconds of one nbdcopy."""
    before, start = common.processor_time(server.process.pid), time.monotonic()
    subprocess.run(["nbdcopy", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start, common.processor_time(server.process.pid) - before


def fio(server, kind, depth):
    """Seconds and processor seconds of one request."""
    before = common.processor_time(server.process.pid)
    done = subprocess.run(
        ["fio", "--name=j", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={kind}", "--bs=4k", f"--iodepth={depth}",
         f"--runtime={SECONDS}", "--time_based", "--size=1g", "--output-format=json", "--randrepeat=1", "--norandommap"],
        check=True, capture_output=True, text=True)
    part = "read" if "read" in kind else "write"
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0][part]
    used = common.processor_time(server.process.pid) - before
    return 1 / job["iops"], used / job["total_ios"]


def work(source):
    yield "copy out, 1 connection", lambda s: copy(s, ["--connections=1", "--allocated", s.uri, "null:"])
    yield "copy out, 4 connections", lambda s: copy(s, ["--connections=4", s.uri, "null:"])
    yield "copy in, 1 connection", lambda s: copy(s, ["--connections=1", "--allocated", source, s.uri])
    yield "copy in, 4 connections", lambda s: copy(s, ["--connections=4", source, s.uri])
    for kind in ("randread", "randwrite"):
        for depth in (1, 16):
            yield f"{kind} 4k, depth {depth}", lambda s, k=kind, d=depth: fio(s, k, d)


def main():
    ours, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    os.makedirs(ROOT, exist_ok=True)
    source = f"{ROOT}/source.raw"
    if not os.path.exists(source):
        with open(source, "wb") as file:
            for _ in range(GIB >> 20):
                file.write(os.urandom(1 << 20))
    pairs = [(f"{ours}/ouzel-nbd", "qemu-nbd"), (f"{ours}/ouzel-storage", "qemu-storage-daemon")]
    only = os.environ.get("ONLY")
    for form in ("raw", "qcow2"):
        image = f"{ROOT}/image.{form}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, source, image], check=True)
        for mine, theirs in pairs:
            if only and only not in mine:
                continue
            for name, action in work(source):
                samples = {mine: [], theirs: []}
                for _ in range(runs):
                    for program in (mine, theirs):
                        with Server(program, form, image) as server:
                            samples[program].append(action(server))
                wall, used = ([statistics.median(sample[i] for sample in samples[p]) for p in (mine, theirs)]
                              for i in (0, 1))
                ratio = lambda values: values[1] / max(values[0], 1e-9)
                print(f"{os.path.basename(mine)} {form}: {name}: time {wall[0] * 1e6:.1f} us against {wall[1] * 1e6:.1f} "
                      f"({ratio(wall):.2f}), processor {used[0] * 1e6:.1f} us against {used[1] * 1e6:.1f} "
                      f"({ratio(used):.2f})", flush=True)
        os.unlink(image)


if __name__ == "__main__":
    main()
