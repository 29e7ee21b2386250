#!/usr/bin/env python3
"""4 KiB random reads and writes inside the guest, at depth 1 and 16, on raw and qcow2: QEMU (tcg) and Ouzel in turn.

The guest's kernel and initial RAM disk are those of `cargo xtask guest`; a static program that this script compiles
goes behind the RAM disk. It keeps `depth` threads busy with O_DIRECT requests for a fixed time of the guest's clock.
Prints requests a second and the ratio to QEMU (above 1 is faster).
"""
import argparse
import os
import subprocess
import sys
import tempfile

import common

LOAD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
enum { BLOCK = 4096 };
static int disk, writes;
static uint64_t blocks;
static double end;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void *work(void *seed) {
    uint64_t state = (uintptr_t)seed * 0x9e3779b97f4a7c15u + 1, done = 0;
    void *buffer;
    if (posix_memalign(&buffer, BLOCK, BLOCK)) exit(1);
    memset(buffer, (int)(uintptr_t)seed, BLOCK);
    for (; now() < end; done++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        off_t at = (off_t)(state % blocks) * BLOCK;
        ssize_t n = writes ? pwrite(disk, buffer, BLOCK, at) : pread(disk, buffer, BLOCK, at);
        if (n != BLOCK) { perror("request"); exit(1); }
    }
    return (void *)(uintptr_t)done;
}
int main(int argc, char **argv) {
    if (argc != 5) return 1;
    writes = !strcmp(argv[2], "write");
    int depth = atoi(argv[3]);
    disk = open(argv[1], (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
    if (disk < 0) { perror(argv[1]); return 1; }
    blocks = lseek(disk, 0, SEEK_END) / BLOCK;
    pthread_t threads[64];
    double start = now(), total = 0;
    end = start + atof(argv[4]);
    for (int i = 0; i < depth && i < 64; i++) pthread_create(&threads[i], 0, work, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < depth && i < 64; i++) { void *done; pthread_join(threads[i], &done); total += (uintptr_t)done; }
    printf("LOAD %s %d %.1f\n", argv[2], depth, total / (now() - start));
    return 0;
}
"""

INIT = """#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
$B --install -s /bin
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do insmod /lib/modules/$m.ko; done
for depth in 1 16; do for what in read write; do /disk-load /dev/vda $what $depth {seconds}; done; done
echo LOAD-END
poweroff -f
"""


def run(options, program, initrd, image, form):
    """Requests a second by what was done."""
    command = common.guest(program, options.guests, initrd) + [
        "-serial", "stdio", "-no-reboot", "-drive", f"if=none,id=d,file={image},format={form},cache={options.cache}",
        "-device", "virtio-blk-pci,drive=d",
    ]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=options.timeout)
    text = process.stdout.decode(errors="replace")
    figures = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["LOAD"] and len(words) == 4:
            figures[f"{form} {words[1]} depth {words[2]}"] = float(words[3])
    if "LOAD-END" not in text or len(figures) != 4:
        sys.exit(f"{program}: the guest did not finish:\n{text[-2000:]}\n{process.stderr.decode()}")
    return figures


def main():
    parser = common.arguments(argparse.ArgumentParser(description=__doc__))
    parser.set_defaults(rounds=3)
    parser.add_argument("--guests", default=os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")))
    parser.add_argument("--size", default="256M", help="the size of the images, which are full")
    parser.add_argument("--seconds", type=float, default=3, help="how long each load runs, by the guest's clock")
    parser.add_argument("--cache", default="writeback")
    parser.add_argument("--timeout", type=float, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        initrd = common.initrd(options.guests, directory, LOAD, "disk-load", INIT.replace("{seconds}", str(options.seconds)))
        images = {}
        for form in ["raw", "qcow2"]:
            images[form] = os.path.join(directory, form)
            subprocess.run(["qemu-img", "create", "-q", "-f", form, images[form], options.size], check=True)
            subprocess.run(["qemu-io", "-f", form, "-c", f"write -q 0 {options.size}", images[form]], check=True)
        programs = [options.program, options.qemu]
        measure = lambda program: {name: value for form, image in images.items() for name, value in run(options, program, initrd, image, form).items()}
        common.table(common.in_turn(options.rounds, programs, measure), programs)


if __name__ == "__main__":
    main()
