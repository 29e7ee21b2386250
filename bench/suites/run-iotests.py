#!/usr/bin/env python3
"""QEMU's image tests with Ouzel's image programs and with QEMU's, side by side.

    run-iotests.py --prepare DIR          unpack the tests of Debian's source package `qemu` into DIR
    run-iotests.py DIR -raw [TEST...]     run tests; any further options go to ./check (-qcow2, -o compat=0.10, ...)

The tests are not in the repository: --prepare takes the source package from --source (a directory with the files of
`apt-get source --download-only qemu`) or fetches it, applies Debian's stable updates so that the expected output fits the
installed QEMU, and keeps `tests/qemu-iotests`, `python` and `scripts`.

Without TEST the tests run that need no emulator (image tools only) for the format. Ouzel's programs are called
`qemu-img` and `qemu-io` through links, because the expected output has these names; programs that Ouzel does not have yet
are QEMU's. One line a test: name, result with Ouzel, result with QEMU, seconds, first differing lines.
"""
import argparse, glob, os, re, shutil, signal, subprocess, sys, tempfile, time

RAW = """001 002 003 004 005 008 009 010 011 012 021 025 032 033 048 052 063 077 086 101 104 106 113 128 150 159 160 162
163 170 171 197 215 221 226 251 253 277 block-status-cache""".split()
QCOW2 = """001 002 003 004 005 008 009 010 011 012 013 014 015 017 018 019 020 021 022 023 024 025 026 027 029 031 032 033
034 035 036 037 038 039 042 043 044 046 047 048 049 050 052 053 054 058 061 062 063 066 069 072 073 074 079 080 082 086
089 090 097 098 103 104 105 107 110 111 112 114 115 121 122 125 126 133 134 137 138 150 154 158 159 162 163 170 174 177
178 179 187 188 189 190 197 198 204 209 214 215 217 226 233 243 250 251 252 261 263 265 268 270 271 272 277 279 284 287
289 290 292 302 303 305 313 nbd-qemu-allocation nbd-reconnect-on-open qemu-img-bitmaps""".split()
OTHER = {
    "vmdk": "059", "vhdx": "064 070", "cloop": "075", "parallels": "076 131 parallels-read-bitmap", "bochs": "078",
    "vdi": "084", "vpc": "088 135 146", "qcow": "092", "qed": "116", "dmg": "239", "luks": "149 282 288 293 294",
}
COMMON = "001 002 003 004 005 008 009 010 011 012 021 025 032 033 048 063 086 104 150 251".split()


def prepare(target, source):
    os.makedirs(f"{target}/src", exist_ok=True)
    if not source:
        source = f"{target}/package"
        os.makedirs(source, exist_ok=True)
        subprocess.run(["apt-get", "source", "--download-only", "qemu"], cwd=source, check=True)
    original = glob.glob(f"{source}/qemu_*.orig.tar.xz")[0]
    debian = glob.glob(f"{source}/qemu_*.debian.tar.xz")[0]
    wanted = ["*/tests/qemu-iotests/*", "*/python/*", "*/scripts/*"]
    subprocess.run(["tar", "-xJf", original, "-C", f"{target}/src", "--strip-components=1", "--wildcards", *wanted],
                   check=True)
    subprocess.run(["tar", "-xJf", debian, "-C", target], check=True)
    number = lambda path: int(re.search(r"v[0-9.]*\.(\d+)\.diff$", path).group(1))
    updates = [path for path in glob.glob(f"{target}/debian/patches/v*.diff") if re.search(r"\.\d+\.diff$", path)]
    for path in sorted(updates, key=number):
        # What touches files that were not unpacked is skipped.
        with open(path) as patch:
            subprocess.run(["patch", "-p1", "-f", "-s"], cwd=f"{target}/src", stdin=patch,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tests = f"{target}/src/tests/qemu-iotests"
    for path in glob.glob(f"{tests}/**/*.rej", recursive=True) + glob.glob(f"{tests}/**/*.orig", recursive=True):
        os.unlink(path)
    for path in glob.glob(f"{tests}/[0-9][0-9][0-9]") + glob.glob(f"{tests}/tests/*"):
        if not path.endswith(".out") and "." not in os.path.basename(path):
            os.chmod(path, 0o755)


def environment(args, ours, work):
    links = f"{work}/bin"
    os.makedirs(links, exist_ok=True)
    programs = dict(os.environ)
    for name, variable, own in (
        ("qemu-img", "QEMU_IMG_PROG", "ouzel-img"), ("qemu-io", "QEMU_IO_PROG", "ouzel-io"),
        ("qemu-nbd", "QEMU_NBD_PROG", "ouzel-nbd"), ("qemu-storage-daemon", "QSD_PROG", "ouzel-storage"),
        ("qemu-system-x86_64", "QEMU_PROG", "ouzel" if args.system else ""),
    ):
        path = args.qemu if variable == "QEMU_PROG" else f"/usr/bin/{name}"
        program = os.path.abspath(f"{args.programs}/{own}")
        if ours and own and os.path.exists(program):
            path = f"{links}/{name}"
            if not os.path.islink(path):
                os.symlink(program, path)
        programs[variable] = path
    programs.update(PATH="/usr/bin:" + os.environ["PATH"], TEST_DIR=f"{work}/t", SOCK_DIR=f"{work}/s")
    return programs


def run(args, test, ours, flags):
    with tempfile.TemporaryDirectory(prefix="iot", dir=args.scratch) as work:
        started = time.time()
        log = f"{work}/log"
        with open(log, "w") as out:
            process = subprocess.Popen(["./check", *flags, test], cwd=f"{args.directory}/src/tests/qemu-iotests",
                                       env=environment(args, ours, work), stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(args.limit)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        text = open(log, errors="replace").read()
        if args.logs and ours:
            shutil.copy(log, f"{args.logs}/{test}.log")
    results = re.findall(r"^(?:.*\r)?\S+ +(pass|fail|not run) +\[", text, re.M)
    result = "timeout" if late else results[-1] if results else "error"
    lines = [line for line in text.splitlines() if re.match(r"^[-+][^-+]", line)]
    note = " // ".join(line[:80] for line in lines[:2]) if result == "fail" else ""
    if result == "error":
        note = text.strip().splitlines()[-1][:160] if text.strip() else ""
    return result, time.time() - started, note


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--source", help="directory with the source package")
    parser.add_argument("--programs", default="target/release", help="where Ouzel's programs are")
    parser.add_argument("--qemu", default="/usr/bin/qemu-system-x86_64")
    parser.add_argument("--system", action="store_true", help="Ouzel as the emulator, too")
    parser.add_argument("--limit", type=int, default=120, help="seconds for a test")
    parser.add_argument("--only", choices=["ouzel", "qemu"], help="run with these programs only")
    parser.add_argument("--logs", help="keep the logs of Ouzel's runs in this directory")
    parser.add_argument("--scratch", default="/tmp")
    parser.add_argument("directory")
    args, rest = parser.parse_known_args()
    args.directory = os.path.abspath(args.directory)
    if args.prepare:
        return prepare(args.directory, args.source)
    if args.logs:
        os.makedirs(args.logs, exist_ok=True)
    is_test = lambda word: re.fullmatch(r"\d\d\d|[a-z]\S*", word) and os.path.exists(
        f"{args.directory}/src/tests/qemu-iotests/{word if word[0].isdigit() else 'tests/' + word}")
    tests = [word for word in rest if is_test(word)]
    flags = [word for word in rest if word not in tests]
    format = next((flag[1:] for flag in flags if flag.startswith("-")), "raw")
    if not tests:
        tests = {"raw": RAW, "qcow2": QCOW2}.get(format) or COMMON + OTHER.get(format, "").split()
    counts = {}
    print(f"{'test':24}{'ouzel':10}{'qemu':10}{'s':>6}  note", flush=True)
    for test in tests:
        ouzel = ("-", 0, "") if args.only == "qemu" else run(args, test, True, flags)
        qemu = ("-", 0, "") if args.only == "ouzel" else run(args, test, False, flags)
        for who, result in (("ouzel", ouzel[0]), ("qemu", qemu[0])):
            counts[who, result] = counts.get((who, result), 0) + 1
        print(f"{test:24}{ouzel[0]:10}{qemu[0]:10}{ouzel[1]:6.1f}  {ouzel[2]}", flush=True)
    for (who, result), count in sorted(counts.items()):
        print(f"{who} {result}: {count}")


if __name__ == "__main__":
    sys.exit(main())
