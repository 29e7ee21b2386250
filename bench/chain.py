#!/usr/bin/env python3
"""How much slower 4 KiB random reads become with 64 overlays: `ouzel-img bench` and `qemu-img bench` in turn.

The data is in the base; each figure is the time of the chain divided by that of the base alone (1 is best).
"""
import argparse
import os
import statistics
import subprocess
import tempfile
import time

import common


def bench(tool, image, count):
    """Seconds for `count` reads, spread over the disk."""
    start = time.monotonic()
    subprocess.run(
        [tool, "bench", "-f", "qcow2", "-c", str(count), "-d", "1", "-s", "4096", "-S", str(37 * 4096), image],
        check=True, stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", nargs="?", default=os.path.join(common.target(), "release/ouzel-img"))
    parser.add_argument("--qemu-img", default="qemu-img")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--count", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = top = os.path.join(directory, "0")
        subprocess.run([options.qemu_img, "create", "-q", "-f", "qcow2", base, "64M"], check=True)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q 0 64M", base], check=True)
        for layer in range(1, options.layers + 1):
            name = os.path.join(directory, str(layer))
            subprocess.run([options.qemu_img, "create", "-q", "-f", "qcow2", "-b", top, "-F", "qcow2", name], check=True)
            top = name
        found = {tool: [] for tool in (options.tool, options.qemu_img)}
        for _ in range(options.rounds):
            for tool, ratios in found.items():
                single, chain = bench(tool, base, options.count), bench(tool, top, options.count)
                ratios.append((chain / single, options.count / chain))
        for tool, ratios in found.items():
            slower, speed = (statistics.median(column) for column in zip(*ratios))
            print(f"{os.path.basename(tool):12} {options.layers} overlays: {slower:6.2f} times the time of one image, {speed:9.0f} reads/s")


if __name__ == "__main__":
    main()
