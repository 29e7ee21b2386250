#!/usr/bin/env python3
"""Runs the user programs of published CPU suites inside a Linux guest and prints a table of their results.

    run-guest-programs.py qemu SOURCE EMULATOR… [--kernel VMLINUZ] [--out DIRECTORY] [--only NAME,…]
    run-guest-programs.py selftests SOURCE EMULATOR…

`qemu`: QEMU's tests/tcg/{i386,x86_64,multiarch}; SOURCE is QEMU's source tree. A program passes if it ends with status 0
and writes what it writes on the host, whose processor is the reference (where it runs there). The two programs without
an operating system of tests/tcg/multiarch/system run as guests of their own.
`selftests`: Linux's tools/testing/selftests/x86; SOURCE is Linux's source tree. A program passes with status 0; 4 is a
skip. The kernel of the guest has its part in the result.

Each EMULATOR is a command, e.g. "qemu-system-x86_64 -accel tcg". Programs are built statically, for 64 and, where the
compiler can, for 32 bits. Logs and outputs that differ go to DIRECTORY.
"""
import argparse
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys

INIT = r"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev 2>/dev/null
$B mkdir -p /tmp /dev/shm
$B mount -t tmpfs tmp /tmp
$B mount -t tmpfs shm /dev/shm
$B --install -s /bin
export PATH=/bin
ifconfig lo up
echo 1 >/proc/sys/kernel/printk
cd /tmp
for program in $(cat /suite/order); do
  echo "=== BEGIN $program"
  timeout -s KILL @TIMEOUT@ /suite/bin/$program >/tmp/output 2>&1 </dev/null
  status=$?
  if [ -e /suite/expected/$program ]; then
    if cmp -s /tmp/output /suite/expected/$program; then same=same; else same=differs; diff /suite/expected/$program /tmp/output | head -n 12; diff /suite/expected/$program /tmp/output | grep -c '^>'; fi
  else
    same=-
    tail -n 25 /tmp/output | cut -c1-200
  fi
  echo "=== END $program $status $same"
done
echo "=== ALL"
poweroff -f
"""
WITHOUT_REFERENCE = re.compile(r"test-mmap|signals|testthread|linux-test|threadcount|munmap|vsyscall|noexec|linux-madvise|sigbus|selftest")
# These can take the guest's kernel with them, so they run last.
DANGEROUS = ["mov_ss_trap_32", "mov_ss_trap_64"]
# Not built by QEMU's own makefile either, or for the other width only.
SKIPPED = {"test-i386-ssse3": 32, "test-avx": 32, "test-3dnow": 0, "test-mmx": 32, "test-i386-fprem": 0}


def compiler(width, *words):
    """A static build; false if the compiler refuses."""
    result = subprocess.run(["gcc", f"-m{width}", "-static", "-w", *words], capture_output=True, text=True)
    if result.returncode:
        print(f"not built: {words[-1]}: {result.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return result.returncode == 0


def build_qemu(source, binaries):
    """QEMU's programs for Linux."""
    tcg = os.path.join(source, "tests/tcg")
    work = os.path.join(binaries, "../generated")
    os.makedirs(work, exist_ok=True)
    table = os.path.join(tcg, "i386/x86.csv")
    for script, header, sets in [("test-mmx.py", "test-mmx.h", ["MMX", "SSE", "SSE2", "SSE3", "SSSE3"]), ("test-avx.py", "test-avx.h", [])]:
        subprocess.run([sys.executable, os.path.join(tcg, "i386", script), table, os.path.join(work, header), *sets], check=True)
    common = ["-I", work, "-I", os.path.join(source, "include"), "-I", os.path.join(tcg, "multiarch/libs"), "-D_GNU_SOURCE"]
    i386 = {os.path.splitext(os.path.basename(file))[0]: file for file in glob.glob(os.path.join(tcg, "i386/*.c"))}
    multiarch = {os.path.splitext(os.path.basename(file))[0]: file for pattern in ["multiarch/*.c", "multiarch/linux/*.c"] for file in glob.glob(os.path.join(tcg, pattern))}
    special = {"test-i386-sse-exceptions": ["-msse4.1", "-mfpmath=sse"], "test-i386-pcmpistri": ["-msse4.2"], "test-i386-bmi2": ["-O2"],
               "hello-i386": ["-ffreestanding", "-nostdlib"], "test-mmx": ["-masm=intel", "-O"], "test-avx": ["-mavx", "-masm=intel", "-O"],
               "test-i386": ["-fno-pie", "-no-pie"]}
    for name, file in i386.items():
        widths = [32] + ([64] if name in ("test-i386-bmi2", "test-i386-ssse3", "test-avx", "test-mmx") else [])
        for width in widths:
            if name in SKIPPED and SKIPPED[name] in (0, width):
                continue
            more = [os.path.join(tcg, "i386", part) for part in ("test-i386-code16.S", "test-i386-vm86.S")] if name == "test-i386" else []
            compiler(width, *common, *special.get(name, []), file, *more, "-lm", "-o", os.path.join(binaries, f"{name}.{width}"))
    compiler(64, *common, i386["test-i386"], "-lm", "-o", os.path.join(binaries, "test-x86_64.64"))
    for name in ["vsyscall", "noexec", "cmpxchg"]:
        compiler(64, *common, "-I", os.path.join(tcg, "multiarch"), os.path.join(tcg, "x86_64", name + ".c"), "-o", os.path.join(binaries, f"{name}.64"))
    for name, file in multiarch.items():
        helpers = [os.path.join(tcg, "multiarch/libs/float_helpers.c")] if name.startswith("float_") else []
        for width in [32, 64]:
            compiler(width, *common, "-pthread", file, *helpers, "-lm", "-lrt", "-o", os.path.join(binaries, f"{name}.{width}"))
    for width in [32, 64]:
        compiler(width, *common, "-msse4.1", "-O3", os.path.join(tcg, "multiarch/sha512.c"), "-o", os.path.join(binaries, f"sha512-sse.{width}"))


def build_selftests(source, binaries):
    """Linux's programs, by the variables of their makefile."""
    place = os.path.join(source, "tools/testing/selftests/x86")
    text = open(os.path.join(place, "Makefile")).read().replace("\\\n", " ")
    lists = {name: words.split() for name, words in re.findall(r"^(TARGETS_C_\w+) := ([^$\n]*)$", text, re.M)}
    both, only32, only64, needed = (lists.get("TARGETS_C_" + name, []) for name in ["BOTHBITS", "32BIT_ONLY", "64BIT_ONLY", "32BIT_NEEDED"])
    extra = {"syscall_arg_fault_32": ["thunks_32.S"], "test_syscall_vdso_32": ["thunks_32.S"], "sysret_ss_attrs_64": ["thunks.S"],
             "ptrace_syscall_32": ["raw_syscall_helper_32.S"]}
    more = {"fsgsbase_64": [], "sysret_rip_64": [], "check_initial_reg_state_32": ["-Wl,-ereal_start", "-static"], "check_initial_reg_state_64": ["-Wl,-ereal_start", "-static"]}
    for width, names in [(32, both + only32 + needed), (64, both + only64 + needed)]:
        for name in names:
            target = f"{name}_{width}"
            files = [os.path.join(place, file) for file in [name + ".c", *extra.get(target, [])]]
            compiler(width, "-O2", "-std=gnu99", "-pthread", "-no-pie", "-DCAN_BUILD_32", "-DCAN_BUILD_64", "-I", place,
                     "-I", os.path.join(source, "tools/testing/selftests"), *more.get(target, []), *files,
                     "-lrt", "-ldl", "-lm", "-o", os.path.join(binaries, target))


def references(suite, binaries, expected, timeout):
    """What the programs write on the host: for those that run there and always write the same."""
    native = {}
    for name in sorted(os.listdir(binaries)):
        runs = []
        for _ in range(2 if suite == "qemu" else 1):
            try:
                result = subprocess.run([os.path.join(binaries, name)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, cwd="/tmp")
                runs.append((result.returncode, result.stdout))
            except (subprocess.TimeoutExpired, OSError):
                runs.append((-1, None))
        native[name] = runs[0][0]
        if suite == "qemu" and runs[0] == runs[1] and runs[0][0] == 0 and not WITHOUT_REFERENCE.search(name):
            with open(os.path.join(expected, name), "wb") as output:
                output.write(runs[0][1])
    return native


def initrd(root, out, timeout, busybox):
    """Packs the root."""
    for directory in ["bin", "dev", "proc", "sys", "tmp"]:
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    shutil.copy(busybox, os.path.join(root, "bin/busybox"))
    with open(os.path.join(root, "init"), "w") as text:
        text.write(INIT.replace("@TIMEOUT@", str(timeout)))
    os.chmod(os.path.join(root, "init"), 0o755)
    path = os.path.join(out, "initrd.cpio")
    with open(path, "wb") as output:
        names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, check=True, input=names, stdout=output)
    return path


def run(emulator, options, image, log):
    """One guest: results and output by program."""
    command = [*shlex.split(emulator), "-cpu", options.cpu, "-smp", str(options.smp), "-m", "2048", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
               "-kernel", options.kernel, "-initrd", image, "-append", "console=ttyS0 quiet panic=-1 vsyscall=emulate " + options.append]
    with open(log, "wb") as output:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=options.patience)
        except subprocess.TimeoutExpired:
            output.write(b"=== the guest's time is over\n")
    text = open(log, errors="replace").read().replace("\r", "")
    found = {}
    for name, body, status, same in re.findall(r"^=== BEGIN (\S+)\n(.*?)^=== END \1 (\d+) (\S+)$", text, re.M | re.S):
        found[name] = (int(status), same, body)
    return found


def verdict(suite, outcome):
    """pass, skip, or why not."""
    if outcome is None:
        return "no result"
    status, same, body = outcome
    if suite == "selftests":
        if status == 0:
            return "pass"
        return "skip" if status == 4 else f"fail ({status})" + (" " + str(len(re.findall(r"\[FAIL\]", body))) + " FAIL" if "[FAIL]" in body else "")
    if status:
        return f"fail ({status})"
    return "output differs" if same == "differs" else "pass"


def system_tests(source, out, emulators, cpu):
    """tests/tcg/multiarch/system: guests without an operating system."""
    tcg = os.path.join(source, "tests/tcg")
    boot, script = (os.path.join(tcg, "x86_64/system", name) for name in ["boot.S", "kernel.ld"])
    rows = []
    for name in ["hello", "memory"]:
        program = os.path.join(out, name + ".elf")
        built = subprocess.run(["gcc", "-m64", "-w", "-nostdlib", "-O0", "-fno-pic", "-no-pie", "-fno-stack-protector", "-fcf-protection=none", "-I", os.path.join(tcg, "minilib"), "-DCHECK_UNALIGNED=1",
                                os.path.join(tcg, "multiarch/system", name + ".c"), boot, os.path.join(tcg, "minilib/printf.c"), f"-Wl,-T{script}", "-Wl,-melf_x86_64", "-static", "-lgcc", "-o", program], capture_output=True, text=True)
        row = [f"system: {name}", "-"]
        for emulator in emulators:
            if built.returncode:
                row.append("not built: " + built.stderr.strip().splitlines()[-1])
                continue
            log = os.path.join(out, f"{name}.out")
            command = [*shlex.split(emulator), "-cpu", cpu, "-nodefaults", "-display", "none", "-chardev", f"file,path={log},id=output", "-device", "isa-debugcon,chardev=output",
                       "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel", program]
            try:
                status = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
                row.append("pass" if status.returncode == 0 else f"fail ({status.returncode}) {status.stderr.decode()[-80:].strip()}")
            except subprocess.TimeoutExpired:
                row.append("timeout")
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["qemu", "selftests"])
    parser.add_argument("source")
    parser.add_argument("emulator", nargs="+")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--out", required=True, help="where everything is built and logged")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--smp", type=int, default=2)
    parser.add_argument("--append", default="", help="more of the kernel's command line")
    parser.add_argument("--only", help="programs, separated by commas")
    parser.add_argument("--timeout", type=int, default=300, help="of one program")
    parser.add_argument("--patience", type=float, default=3600, help="of one guest")
    parser.add_argument("--busybox", default="/bin/busybox")
    options = parser.parse_args()
    out = os.path.abspath(options.out)
    built = os.path.join(out, "built")
    if not os.path.exists(built):
        os.makedirs(built)
        (build_qemu if options.suite == "qemu" else build_selftests)(os.path.abspath(options.source), built)
    root = os.path.join(out, "root")
    shutil.rmtree(root, ignore_errors=True)
    binaries, expected = (os.path.join(root, "suite", name) for name in ["bin", "expected"])
    os.makedirs(expected)
    os.makedirs(binaries)
    for name in os.listdir(built):
        if not options.only or name in options.only.split(","):
            shutil.copy(os.path.join(built, name), binaries)
            subprocess.run(["strip", os.path.join(binaries, name)], capture_output=True)
    names = sorted(os.listdir(binaries), key=lambda name: (name in DANGEROUS, name))
    with open(os.path.join(root, "suite/order"), "w") as text:
        text.write("\n".join(names) + "\n")
    native = references(options.suite, binaries, expected, min(options.timeout, 60))
    image = initrd(root, out, options.timeout, options.busybox)
    labels = [os.path.basename(shlex.split(emulator)[0]) for emulator in options.emulator]
    results = [run(emulator, options, image, os.path.join(out, f"{number}-{label}.log")) for number, (emulator, label) in enumerate(zip(options.emulator, labels))]
    rows = [[name, {0: "pass", 4: "skip"}.get(native[name], f"fail ({native[name]})")] + [verdict(options.suite, result.get(name)) for result in results] for name in sorted(native)]
    if options.suite == "qemu" and not options.only:
        rows += system_tests(os.path.abspath(options.source), out, options.emulator, options.cpu)
    print("| program | host | " + " | ".join(labels) + " |")
    print("| --- " * (len(labels) + 2) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    counts = [sum(row[column] == "pass" for row in rows) for column in range(1, len(labels) + 2)]
    print(f"passed of {len(rows)}: host {counts[0]}, " + ", ".join(f"{label} {count}" for label, count in zip(labels, counts[1:])))


if __name__ == "__main__":
    main()
