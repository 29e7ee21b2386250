#!/usr/bin/env python3
"""Mixed load for a long time in a Linux guest, every result compared with the host's. Ends with PASS or FAIL.

The guest compiles C files with the host's own compiler and assembler, packs and unpacks, sorts, runs awk, Python and
shell loops, threads, and every workload of the benchmark; each processor has a worker that goes through all of it. The
host runs the same programs on the same files first, so a wrong digest is a wrong result of the emulator. The guest's
console must show no fault of its kernel or of a program, and the monitor must answer all the time.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import common
import cpu

TROUBLE = re.compile(r"BUG|Oops|soft lockup|hard lockup|stall|segfault|general protection|traps:|Call Trace|panic|Out of memory|clocksource:.*unstable|hung task")
# The C library and the compiler's libraries choose code by CPUID; their last digits must not depend on it.
TUNABLES = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2,-AVX512F"
COMPILE = "cd $R/soak/src; export LD_LIBRARY_PATH=$R/cc/lib; $R/cc/cc1 -quiet -fpreprocessed {level} -o $T/{name}.s {file} && sha256sum <$T/{name}.s && $R/cc/as -o $T/{name}.o $T/{name}.s && sha256sum <$T/{name}.o"
TASKS = {
    "gzip": "gzip -9 <$R/bin/busybox >$T/packed; sha256sum <$T/packed; gunzip <$T/packed | sha256sum; sha256sum <$R/bin/busybox",
    "bzip2": "head -c 600000 $R/bin/busybox | bzip2 >$T/bz; sha256sum <$T/bz; bunzip2 <$T/bz | md5sum",
    "tar": "cd $R/py; tar cf $T/py.tar .; rm -rf $T/out; mkdir $T/out; tar xf $T/py.tar -C $T/out; cd $T/out; find . -type f | sort | xargs sha256sum | sha256sum; find . -type f | sort | xargs cat | sha512sum; rm -rf $T/out $T/py.tar",
    "sort": "cd $R/soak/src; cat *.i | tr -c 'A-Za-z0-9_' '\\n' | sort | uniq -c | sort -rn | head -500 | md5sum; cat *.i | sed 's/[0-9]/x/g' | grep -v '^#' | sort -u | sha1sum",
    "awk": "awk 'BEGIN{for(i=0;i<60000;i++){a[i%1000]=a[i%1000] i%7; s+=length(a[i%1000])*1.5; t+=sin(i)*sqrt(i); if(length(a[i%1000])>50)a[i%1000]=\"\"} printf \"%.6f %.6f\\n\", s, t}'",
    "shell": "i=0; s=0; while [ $i -lt 20000 ]; do i=$((i+1)); s=$(((s*31+i)%1000003)); done; echo $s; for n in 1 2 3 4 5 6 7 8; do echo $n | sed 's/./&&/' | cut -c1; done",
    "python": "cd $R/py; export LD_LIBRARY_PATH=$R/py/lib PYTHONHOME=$R/py PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1; ./python3 -S -c 'd={}\nx=1\nfor i in range(40000):\n  d[str(i%977)]=d.get(str(i%977),0)+i*3\n  x=x*6364136223846793005+i&(1<<200)-1\nprint(sum(d.values()),x,sum(i**.5 for i in range(20000)))'",
    "threads": "$R/bin/parallel 2 16 | sed 's/.*sum=/sum=/'; $R/bin/parallel 4 16 | sed 's/.*sum=/sum=/'",
}


def sources(chosen, stage):
    """Preprocessed C files of some size: the workloads' own, and libc's headers in bulk."""
    place = os.path.join(stage, "soak/src")
    os.makedirs(place)
    files = sorted(glob.glob(os.path.join(chosen.workloads, "src/*.c"))) + [os.path.join(cpu.HERE, "parallel.c")]
    for file in files:
        name = os.path.splitext(os.path.basename(file))[0]
        subprocess.run(["gcc", "-E", "-P", "-O2", "-std=gnu11", file, "-o", os.path.join(place, name + ".i")], check=True, stderr=subprocess.DEVNULL)
    return sorted(os.path.basename(file) for file in glob.glob(os.path.join(place, "*.i")))


def prepare(chosen):
    """The root of the guest, the tasks and the initrd."""
    cpu.build(chosen)
    stage = os.path.join(chosen.out, "soak")
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(os.path.join(chosen.out, "stage"), stage, symlinks=True)
    for name in ["bench", "parallel"]:
        source = os.path.join(chosen.out, "parallel/bin/parallel" if name == "parallel" else "stage/bin/bench")
        shutil.copy(source, os.path.join(stage, "bin", name))
    assembler = os.path.realpath(shutil.which("as"))
    shutil.copy(assembler, os.path.join(stage, "cc/as"))
    for library in re.findall(r"(/\S+\.so\S*)", subprocess.run(["ldd", assembler], check=True, capture_output=True, text=True).stdout):
        shutil.copy(library, os.path.join(stage, "cc/lib" if "ld-linux" not in library else "lib64", os.path.basename(library)))
    os.makedirs(os.path.join(stage, "soak/tasks"))
    tasks = dict(TASKS)
    for number, file in enumerate(sources(chosen, stage)):
        name = os.path.splitext(file)[0]
        tasks[f"compile-{name}"] = COMPILE.format(level="-O2" if number % 2 else "-O1", name=name, file=file)
    listed = subprocess.run([os.path.join(stage, "bin/bench"), "list"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    for first in range(0, len(names), 3):
        group = names[first:first + 3]
        tasks["bench-" + "-".join(group)] = f"export BENCHROOT=$R; $R/bin/bench only={','.join(group)} min=1 max=2 sec=0 | sed -n 's/^RESULT \\([^ ]*\\).* ck=/\\1 /p'"
    for name, text in tasks.items():
        with open(os.path.join(stage, "soak/tasks", name), "w") as output:
            output.write(f"export {TUNABLES}\n{text}\n")
    shutil.copy(os.path.join(cpu.HERE, "soak-init"), os.path.join(stage, "init"))
    os.chmod(os.path.join(stage, "init"), 0o755)
    initrd = os.path.join(chosen.out, "soak.cpio")
    with open(initrd, "wb") as output:
        files = subprocess.run(["find", "."], cwd=stage, check=True, capture_output=True).stdout
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=stage, check=True, input=files, stdout=output)
    return stage, initrd, sorted(tasks)


def expected(stage, tasks):
    """The digests that the host gets, with the same busybox."""
    busybox = os.path.join(stage, "bin/busybox")
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([busybox, "--install", "-s", directory], check=True)
        for task in tasks:
            environment = {"PATH": directory, "R": stage, "T": os.path.join(directory, "t")}
            os.makedirs(environment["T"], exist_ok=True)
            script = f"sh {stage}/soak/tasks/{task} 2>&1 | tee {directory}/output | sha256sum | cut -d' ' -f1"
            result = subprocess.run([busybox, "sh", "-c", script], env=environment, check=True, capture_output=True, text=True)
            found[task] = result.stdout.strip()
            with open(os.path.join(directory, "output"), errors="replace") as output:
                if re.search(r"not found|cannot|error|No such", text := output.read()):
                    sys.exit(f"task {task} does not run on the host:\n{text}")
    return found


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=os.path.join(common.target(), "release/ouzel"))
    parser.add_argument("--duration", type=float, default=3600, help="seconds after the guest's start")
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--smp", type=int, default=2)
    parser.add_argument("--kernel", default=os.path.join(os.environ.get("OUZEL_GUESTS", os.path.join(common.target(), "guest")), "vmlinuz"))
    parser.add_argument("--workloads", default=cpu.WORKLOADS)
    parser.add_argument("--out", default=os.path.join(common.target(), "bench", "cpu"))
    parser.add_argument("--log", help="file for the guest's console")
    return parser.parse_args()


def soak(chosen, initrd, wanted):
    """Runs the guest for the time that was asked; the troubles found, and how often each task gave its digest."""
    words = cpu.command(chosen.program, chosen.accel, chosen.cpu, chosen.smp)
    guest = cpu.Guest(words, chosen.kernel, initrd)
    output = open(chosen.log or os.devnull, "w")
    troubles, right = [], {}
    stopped = last_look = None
    try:
        begin, _, _ = guest.line("SOAK-BEGIN", 600)
        if begin.split()[1] != str(chosen.smp):
            troubles.append(f"the guest has {begin.split()[1]} processors")
        cpu.log(f"the guest is up: {len(wanted)} tasks, {cpu.resident(guest.process.pid)} KiB resident")
        while True:
            # The longest task on the slowest tier takes some minutes.
            line, wall, processor = guest.line("", 1800)
            output.write(f"{wall:9.1f} {line}\n")
            output.flush()
            words = line.split()
            if line.startswith("R ") and len(words) == 4:
                if wanted.get(words[2]) == words[3]:
                    right[words[2]] = right.get(words[2], 0) + 1
                else:
                    troubles.append(f"after {wall:.0f} s: worker {words[1]}, {words[2]}: {words[3]}")
            elif TROUBLE.search(line):
                troubles.append(f"after {wall:.0f} s: {line}")
            elif line.startswith("SOAK-DONE"):
                cpu.log(f"the guest ends after {wall:.0f} s ({line.split()[1]} s on its own clock), {processor:.0f} s of processor time")
                drift = abs(float(line.split()[1]) - wall)
                if drift > 10 + wall * 0.02:
                    troubles.append(f"the guest's clock is {drift:.0f} s off")
                break
            if last_look is None or wall - last_look > 60:
                last_look = wall
                status = guest.query("query-status")
                if not status or status.get("status") != "running":
                    troubles.append(f"after {wall:.0f} s: query-status gives {status}")
                cpu.log(f"{wall:6.0f} s: {sum(right.values())} right, {len(troubles)} troubles, {cpu.resident(guest.process.pid)} KiB resident, translated {cpu.translated(guest)}")
            if stopped is None and wall > chosen.duration:
                stopped = wall
                guest.send("stop")
        if guest.process.wait(60) != 0:
            troubles.append(f"the emulator ended with status {guest.process.returncode}")
    except (SystemExit, OSError, subprocess.TimeoutExpired) as error:
        troubles.append(f"the guest is lost: {error}")
    finally:
        guest.end()
        output.close()
    return troubles, right


def main():
    chosen = arguments()
    cpu.log("preparing")
    _, initrd, tasks = prepare(chosen)
    cpu.log("the host's results")
    wanted = expected(os.path.join(chosen.out, "soak"), tasks)
    troubles, right = soak(chosen, initrd, wanted)
    for task in tasks:
        print(f"{task:40}{right.get(task, 0):6}")
        if not right.get(task):
            troubles.append(f"{task} never gave the right result")
    for trouble in troubles[:50]:
        print(f"TROUBLE {trouble}")
    print(f"{'FAIL' if troubles else 'PASS'}: {chosen.duration:.0f} s, {chosen.smp} processors, {sum(right.values())} right results, {len(troubles)} troubles")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
