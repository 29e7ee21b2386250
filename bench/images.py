#!/usr/bin/env python3
"""Speed of the image tool against qemu-img's, in turn on the same machine.

    images.py [--ouzel PATH] [--qemu PATH] [--directory DIR] [--runs N] [--mib N] [NAME...]

Two sources are made: `half` has 512 KiB of random bytes and 512 KiB of hole in every MiB, `mix` is half random and half
text in every 4 KiB. Each operation runs N times with each program, alternating; printed are the medians of the wall
clock, of the processor time and of the peak memory, and the ratios Ouzel/QEMU (below 1 is faster). Names of operations
select some of them. Results of the two programs are compared with `qemu-img compare`.
"""
import argparse, os, random, shutil, statistics, subprocess, sys, time


def make_source(path, kind, mib):
    if os.path.exists(path) and os.path.getsize(path) == mib << 20:
        return
    text = (b"The quick brown fox jumps over the lazy dog. " * 100)[:2048]
    with open(path, "wb") as out:
        for index in range(mib):
            if kind == "half":
                out.seek(index << 20)
                out.write(os.urandom(512 << 10))
            else:
                noise = os.urandom(512 << 10)
                out.write(b"".join(noise[at:at + 2048] + text for at in range(0, 512 << 10, 2048)))
        out.truncate(mib << 20)


def measure(command):
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def operations(directory):
    out = f"{directory}/out"
    for kind in ("half", "mix"):
        raw, qcow2 = f"{directory}/{kind}.raw", f"{directory}/{kind}.qcow2"
        yield f"{kind} raw-qcow2", ["convert", "-f", "raw", "-O", "qcow2", raw, out], raw
        yield f"{kind} raw-qcow2 -W", ["convert", "-W", "-f", "raw", "-O", "qcow2", raw, out], raw
        yield f"{kind} qcow2-raw", ["convert", "-f", "qcow2", "-O", "raw", qcow2, out], raw
        for method in ("zlib", "zstd"):
            options = ["-c", "-o", f"compression_type={method}"]
            yield (f"{kind} raw-qcow2 {method} -W",
                   ["convert", *options, "-m", "8", "-W", "-f", "raw", "-O", "qcow2", raw, out], raw)
            packed = f"{directory}/{kind}-{method}.qcow2"
            yield f"{kind} raw-qcow2 {method}", ["convert", *options, "-f", "raw", "-O", "qcow2", raw, out], raw
            yield f"{kind} {method} qcow2-raw", ["convert", "-f", "qcow2", "-O", "raw", packed, out], raw
        yield f"{kind} compare", ["compare", "-f", "raw", "-F", "qcow2", raw, qcow2], None
        yield f"{kind} check", ["check", "-q", "-f", "qcow2", qcow2], None
        yield f"{kind} map", ["map", "--output=json", "-f", "qcow2", qcow2], None
        yield f"{kind} measure", ["measure", "-O", "qcow2", "-f", "raw", raw], None
    for depth in ("1", "16"):
        # Copies: the others are compared with their sources.
        for name, image in (("raw", f"{directory}/bench.raw"), ("qcow2", f"{directory}/bench.qcow2")):
            base = ["bench", "-q", "-f", name, "-c", "20000", "-d", depth, "-s", "4096", "-S", "1052672"]
            yield f"bench {name} read depth {depth}", [*base, image], None
            yield f"bench {name} write depth {depth}", [*base, "-w", image], None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ouzel", default="target/release/ouzel-img")
    parser.add_argument("--qemu", default="/usr/bin/qemu-img")
    parser.add_argument("--directory", default="/dev/shm/ouzel-images")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    # Images of another size are not taken for these.
    directory = f"{args.directory}/{args.mib}"
    os.makedirs(directory, exist_ok=True)
    for kind in ("half", "mix"):
        raw = f"{directory}/{kind}.raw"
        make_source(raw, kind, args.mib)
        if not os.path.exists(f"{directory}/{kind}.qcow2"):
            subprocess.run([args.qemu, "convert", "-O", "qcow2", raw, f"{directory}/{kind}.qcow2"], check=True)
        for method in ("zlib", "zstd"):
            packed = f"{directory}/{kind}-{method}.qcow2"
            if not os.path.exists(packed):
                subprocess.run([args.qemu, "convert", "-W", "-c", "-o", f"compression_type={method}", "-O", "qcow2", raw,
                                packed], check=True)
    for format in ("raw", "qcow2"):
        shutil.copy(f"{directory}/mix.{format}", f"{directory}/bench.{format}")
    print(f"{'operation':34}{'ouzel s':>9}{'qemu s':>9}{'ratio':>7}{'cpu':>7}{'ouzel MiB':>11}{'qemu MiB':>10}")
    for name, command, source in operations(directory):
        if args.names and not any(wanted in name for wanted in args.names):
            continue
        results = {"ouzel": [], "qemu": []}
        for run in range(args.runs):
            for who, program in random.sample([("ouzel", args.ouzel), ("qemu", args.qemu)], 2):
                if os.path.exists(f"{directory}/out"):
                    os.unlink(f"{directory}/out")
                results[who].append(measure([program, *command]))
                if run == 0 and who == "ouzel" and source:
                    subprocess.run([args.qemu, "compare", "-q", source, f"{directory}/out"], check=True)
        median = {who: [statistics.median(column) for column in zip(*rows)] for who, rows in results.items()}
        ouzel, qemu = median["ouzel"], median["qemu"]
        print(f"{name:34}{ouzel[0]:9.3f}{qemu[0]:9.3f}{ouzel[0] / qemu[0]:7.2f}{ouzel[1] / max(qemu[1], 0.001):7.2f}"
              f"{ouzel[2] / 1024:11.0f}{qemu[2] / 1024:10.0f}", flush=True)
    if os.path.exists(f"{directory}/out"):
        os.unlink(f"{directory}/out")


if __name__ == "__main__":
    main()
