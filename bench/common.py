"""What the measurements share: programs in turn, medians of five, ratios to QEMU."""
import os
import shutil
import statistics
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MACHINE = os.path.join(REPOSITORY, "..", "shared", "bench", "machine")


OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"


def firmware(name, variables):
    """The arguments for the firmware `name`, `seabios` or `ovmf`; the file `variables` is made for the latter's store."""
    if name == "seabios":
        return []
    shutil.copyfile(VARIABLES, variables)
    return ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}", "-drive", f"if=pflash,format=raw,file={variables}"]


def target():
    """Where cargo puts what it builds."""
    return os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target"))


def arguments(parser):
    """The options that every script has."""
    parser.add_argument("program", nargs="?", default=os.path.join(target(), "release/ouzel"), help="the emulator to measure")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="what it is compared with")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn")
    return parser


def compiled(name):
    """A measuring program of ../shared/bench/machine, compiled into the target directory."""
    source = os.path.join(MACHINE, name + ".c")
    if not os.path.exists(source):
        sys.exit(f"{source} is missing: the measuring programs are beside the repository")
    program = os.path.join(target(), "bench", name)
    os.makedirs(os.path.dirname(program), exist_ok=True)
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.run(["cc", "-O2", "-w", "-o", program, source], check=True)
    return program


def processor_time(pid):
    """The processor time of all threads of a process, seconds."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def guest(program, guests, ram_disk):
    """The command of a machine without devices whose kernel starts /bench-init in the RAM disk."""
    return [
        program, "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "256",
        "-kernel", os.path.join(guests, "vmlinuz"), "-initrd", ram_disk, "-append", "console=ttyS0 quiet rdinit=/bench-init",
    ]


def initrd(guests, directory, program, name, init):
    """The guests' RAM disk with a C program, compiled as `name`, and the script `init` as /bench-init behind it."""
    files = os.path.join(directory, "files")
    os.mkdir(files)
    subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", os.path.join(files, name), "-x", "c", "-"], input=program.encode(), check=True)
    with open(os.path.join(files, "bench-init"), "w") as script:
        script.write(init)
    os.chmod(os.path.join(files, "bench-init"), 0o755)
    names = "\n".join(sorted(os.listdir(files)))
    made = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=files, capture_output=True, check=True)
    path = os.path.join(directory, "initrd")
    with open(path, "wb") as whole, open(os.path.join(guests, "initrd.cpio"), "rb") as base:
        whole.write(base.read())
        whole.write(b"\0" * (-whole.tell() % 512))
        whole.write(made.stdout)
    return path


def in_turn(rounds, programs, measure):
    """`measure` gives figures by name; both programs in turn, the first a warm-up. Medians by program and name."""
    found = {program: [] for program in programs}
    for number in range(rounds + 1):
        for program in programs:
            figures = measure(program)
            if number > 0:
                found[program].append(figures)
    return {program: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for program, runs in found.items()}


def table(medians, programs):
    """Prints the medians and the ratios of the first program to the second."""
    ours, theirs = (medians[program] for program in programs)
    print(f"{'':28}{os.path.basename(programs[0]):>16}{os.path.basename(programs[1])[:18]:>20}{'ratio':>10}")
    for name in ours:
        ratio = ours[name] / theirs[name] if theirs[name] else float("nan")
        print(f"{name:28}{ours[name]:16.2f}{theirs[name]:20.2f}{ratio:10.3f}")
