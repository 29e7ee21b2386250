#!/usr/bin/env python3
"""How fast each job copies: 4 GiB, every second 64 KiB of it full, on tmpfs. Ouzel's and QEMU's storage daemon in turn.

    bench/jobs.py OUZEL-STORAGE [--only REGULAR-EXPRESSION]

Each run starts the daemon with new targets and takes the time from the command to the end of the job (a mirror and the
commit of the active layer are completed when they are ready). Prints the medians of the MB of data copied in a second
and of the daemon's processor time, and the ratios Ouzel/QEMU. Needs 12 GiB of memory, `qemu-img`, `qemu-storage-daemon`.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import common
import monitor

SIZE, PIECE = 4 << 30, 64 << 10
DATA = SIZE // 2


def image(*arguments):
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


def create(form, path, *backing):
    image("create", "-q", "-f", form, *(["-b", backing[0], "-F", "qcow2"] if backing else []), path, str(SIZE))


def layers(*paths):
    """A chain of qcow2 images as a block node, the top first."""
    node = None
    for number, path in reversed(list(enumerate(paths))):
        below = {"backing": node} if node else {}
        node = {"driver": "qcow2", "node-name": f"n{number}", "file": {"driver": "file", "filename": path}, **below}
    return node


def half_full(path):
    """A raw image."""
    piece = os.urandom(PIECE)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 2 * PIECE):
            file.seek(at)
            file.write(at.to_bytes(8, "little") + piece[8:])


class Work:
    """The images, and the jobs on them: what is made before, the nodes, the command."""

    def __init__(self, directory):
        self.path = lambda name: os.path.join(directory, name)
        self.raw, self.qcow2 = self.path("half.raw"), self.path("half.qcow2")
        half_full(self.raw)
        image("convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2)

    def stream(self, qmp):
        create("qcow2", self.path("new"), self.qcow2)
        qmp.run("blockdev-add", **layers(self.path("new"), self.qcow2))
        return "block-stream", {"device": "n0"}

    def commit(self, qmp, layer):
        create("qcow2", self.path("base"))
        shutil.copyfile(self.qcow2, self.path("middle"))
        chain = [self.path("middle"), self.path("base")]
        image("rebase", "-u", "-f", "qcow2", "-b", self.path("base"), "-F", "qcow2", self.path("middle"))
        if layer:
            create("qcow2", self.path("top"), self.path("middle"))
            chain.insert(0, self.path("top"))
        qmp.run("blockdev-add", **layers(*chain))
        return "block-commit", {"device": "n0", "top_node": "n1" if layer else "n0"}

    def copy(self, qmp, command, source, target, **arguments):
        create(target, self.path("new"))
        for node, form, path in (("source", source, getattr(self, source)), ("target", target, self.path("new"))):
            file = {"driver": "file", "filename": path, "discard": "unmap"}
            qmp.run("blockdev-add", driver=form, node_name=node, file=file, discard="unmap")
        return command, {"device": "source", "target": "target", "sync": "full", **arguments}

    def jobs(self):
        """Name and preparation."""
        yield "stream", self.stream
        yield "commit, active", lambda qmp: self.commit(qmp, 0)
        yield "commit, intermediate", lambda qmp: self.commit(qmp, 1)
        for source, target in (("raw", "raw"), ("raw", "qcow2"), ("qcow2", "raw"), ("qcow2", "qcow2")):
            for name in ("mirror", "backup"):
                yield f"{name}, {source} to {target}", lambda qmp, n=name, s=source, t=target: self.copy(qmp, f"blockdev-{n}", s, t)
        yield "mirror, write-blocking", lambda qmp: self.copy(qmp, "blockdev-mirror", "raw", "raw", copy_mode="write-blocking")
        yield "backup, compressed", lambda qmp: self.copy(qmp, "blockdev-backup", "qcow2", "qcow2", compress=True)

    def measure(self, program, prepare):
        """Data in a second, and processor seconds, of one job."""
        for name in ("new", "base", "middle", "top"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        path = self.path("qmp")
        server = ["--chardev", f"socket,id=m,path={path},server=on,wait=off", "--monitor", "chardev=m"]
        process = subprocess.Popen([program, *server], stdout=subprocess.DEVNULL)
        try:
            qmp = monitor.connect(path, process)
            command, arguments = prepare(qmp)
            before, start = common.processor_time(process.pid), time.monotonic()
            qmp.run(command, job_id="j", **arguments)
            if qmp.wait_for_job("j", ("ready", "concluded")) == "ready":
                qmp.run("job-complete", id="j")
                qmp.wait_for_job("j", ("concluded",))
            wall, used = time.monotonic() - start, common.processor_time(process.pid) - before
        finally:
            process.terminate()
            process.wait()
        return {"MB/s": DATA / wall / 1e6, "processor s": used}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=os.path.join(common.target(), "release/ouzel-storage"))
    parser.add_argument("--qemu", default="qemu-storage-daemon", help="what it is compared with")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--only", default="", help="a regular expression over the jobs' names")
    parser.add_argument("--directory", default="/dev/shm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        work = Work(directory)
        programs = [options.program, options.qemu]
        for name, prepare in work.jobs():
            if re.search(options.only, name):
                medians = common.in_turn(options.rounds, programs, lambda program: work.measure(program, prepare))
                print(f"\n{name}")
                common.table(medians, programs)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
