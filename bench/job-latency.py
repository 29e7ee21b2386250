#!/usr/bin/env python3
"""How long a guest's writes take while its disk is copied: median and 99th percentile, Ouzel and QEMU (tcg) in turn.

A static program in the guest writes 4 KiB at random places with O_DIRECT, one request at a time, first alone, then while
a mirror runs, then a backup. The disk has 4 GiB, every second 64 KiB of it full, and lies on tmpfs; a job that is done
(a mirror: ready) is ended and started again until the guest has finished. Latencies in microseconds of the guest's
clock (below 1 is better), and the writes that were done in a second. Needs 8 GiB of memory.
"""
import argparse
import os
import socket
import subprocess
import tempfile
import threading

import common
import jobs
import monitor

LOAD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
enum { BLOCK = 4096, MOST = 4 << 20 };
static float took[MOST];
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }
static int order(const void *a, const void *b) { float x = *(float *)a, y = *(float *)b; return (x > y) - (x < y); }
int main(int argc, char **argv) {
    if (argc != 3) return 1;
    int disk = open(argv[1], O_RDWR | O_DIRECT);
    if (disk < 0) { perror(argv[1]); return 1; }
    uint64_t blocks = lseek(disk, 0, SEEK_END) / BLOCK, state = 0x9e3779b97f4a7c15u;
    void *buffer;
    if (posix_memalign(&buffer, BLOCK, BLOCK)) return 1;
    memset(buffer, 90, BLOCK);
    int count = 0;
    double start = now(), end = start + atof(argv[2]) * 1e6, before = start;
    while (before < end && count < MOST) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (pwrite(disk, buffer, BLOCK, (off_t)(state % blocks) * BLOCK) != BLOCK) { perror("write"); return 1; }
        double after = now();
        took[count++] = after - before;
        before = after;
    }
    qsort(took, count, sizeof *took, order);
    printf("LATENCY %.1f %.1f %.1f\n", took[count / 2], took[(int)(count * 0.99)], count / ((before - start) / 1e6));
    return 0;
}
"""

INIT = """#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
$B --install -s /bin
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do insmod /lib/modules/$m.ko; done
stty -echo
echo READY
while read seconds; do /write-latency /dev/vda $seconds; done
"""


class Serial(threading.Thread):
    """Lines of the guest's serial port."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.changed, self.lines = threading.Condition(), []
        self.start()

    def run(self):
        for line in self.socket.makefile("r", errors="replace"):
            with self.changed:
                self.lines.append(line.strip())
                self.changed.notify()

    def find(self, word, seconds):
        """The words of the line that begins with `word`, which is taken; None after that time."""
        found = lambda: next((line for line in self.lines if line.startswith(word)), None)
        with self.changed:
            line = self.changed.wait_for(found, seconds)
            if line:
                self.lines.remove(line)
                return line.split()
        return None


def copy(qmp, command):
    """One job on the disk, to where it is ready or done."""
    qmp.run(command, job_id="j", device="disk", target="target", sync="full")
    if qmp.wait_for_job("j", ("ready", "concluded")) == "ready":
        qmp.run("block-job-cancel", device="j", force=True)
        qmp.wait_for_job("j", ("concluded",))


def run(options, program, initrd, form, images):
    """Latencies and writes a second, alone and during each job."""
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: os.path.join(directory, name)
        command = common.guest(program, options.guests, initrd) + [
            "-serial", f"unix:{path('serial')},server=on,wait=off", "-qmp", f"unix:{path('qmp')},server=on,wait=off",
            "-device", "virtio-blk-pci,drive=disk",
        ]
        for node, image in zip(("disk", "target"), images):
            command += ["-blockdev", f"{form},node-name={node},file.driver=file,file.filename={image}"]
        process = subprocess.Popen(command)
        try:
            qmp = monitor.connect(path("qmp"), process)
            serial = Serial(path("serial"))
            if not serial.find("READY", options.timeout):
                raise monitor.Wrong(f"{program}: the guest did not start: {serial.lines}")
            figures = {}
            for name, job in (("alone", None), ("mirror", "blockdev-mirror"), ("backup", "blockdev-backup")):
                serial.socket.sendall(f"{options.seconds}\n".encode())
                while not (words := serial.find("LATENCY", 0 if job else options.timeout)):
                    copy(qmp, job)
                for what, value in zip(("median us", "99 % us", "writes/s"), words[1:]):
                    figures[f"{form} {name} {what}"] = float(value)
            return figures
        finally:
            process.kill()
            process.wait()


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--guests", default=os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")))
    parser.add_argument("--seconds", type=float, default=4, help="how long each load runs, by the guest's clock")
    parser.add_argument("--formats", default="raw,qcow2")
    parser.add_argument("--timeout", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        initrd = common.initrd(options.guests, directory, LOAD, "write-latency", INIT)
        for form in options.formats.split(","):
            images = [os.path.join(directory, name) for name in ("disk", "target")]
            jobs.half_full(images[0])
            if form != "raw":
                raw = images[0] + ".raw"
                os.rename(images[0], raw)
                jobs.image("convert", "-f", "raw", "-O", form, raw, images[0])
                os.unlink(raw)
            subprocess.run(["qemu-img", "create", "-q", "-f", form, images[1], str(jobs.SIZE)], check=True)
            programs = [options.program, options.qemu]
            measure = lambda program: run(options, program, initrd, form, images)
            common.table(common.in_turn(options.rounds, programs, measure), programs)


if __name__ == "__main__":
    main()
