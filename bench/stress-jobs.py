#!/usr/bin/env python3
"""Random writes to two disks under random jobs, snapshots, transactions, pauses, cancels, throttles and kills.

    bench/stress-jobs.py OUZEL-STORAGE [--seconds 3600] [--seed N]

The disks are chains of qcow2 images behind `ouzel-storage`, written by clients of its NBD server that know what they
wrote. Each finished copy is converted by `qemu-img` and must be the disk of its moment, byte for byte; each disk is read
again and again; after each kill of the daemon every image must pass `qemu-img check` (leaked clusters are fine) and hold
what was flushed. Prints PASS, or what differs, and leaves the images then.
"""
import argparse
import collections
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from monitor import Gone, Monitor, Wrong

BLOCK, BLOCKS = 4096, 4096
SIZE = BLOCK * BLOCKS
PATIENCE = 120


def content(block, tag):
    """What a block holds that the write `tag` was the last of; nothing was written with tag 0."""
    return struct.pack("<QQ", tag, block) * (BLOCK // 16) if tag else bytes(BLOCK)


def tag_of(block, data):
    """The tag of a block's bytes, or None if no single write left them."""
    tag = struct.unpack_from("<Q", data)[0]
    return tag if data == content(block, tag) else None


def receive(stream, length):
    data = bytearray()
    while len(data) < length:
        try:
            piece = stream.recv(length - len(data))
        except ConnectionError:
            piece = b""
        if not piece:
            raise Gone
        data += piece
    return bytes(data)


class Nbd:
    """A client of one export: requests with simple replies, one at a time."""

    READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6

    def __init__(self, path, export):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        receive(self.stream, 18)
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + b"\0\0"
        self.stream.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
        kind = 3
        while kind != 1:
            _, _, kind, length = struct.unpack(">QIII", receive(self.stream, 20))
            text = receive(self.stream, length)
            if kind & 0x80000000:
                raise Wrong(f"the server refuses the export {export}: {text}")

    def request(self, kind, offset, length, data=b""):
        try:
            self.stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, offset, length) + data)
        except ConnectionError:
            raise Gone from None
        magic, error, cookie = struct.unpack(">IIQ", receive(self.stream, 16))
        if (magic, error, cookie) != (0x67446698, 0, 7):
            raise Wrong(f"request {kind} of {length} at {offset}: error {error}")
        return receive(self.stream, length) if kind == self.READ else b""


class Writer(threading.Thread):
    """Writes to a part of a disk, which nobody else writes to."""

    def __init__(self, disk, path, first, last, seed):
        super().__init__(daemon=True)
        self.disk, self.first, self.last = disk, first, last
        self.random, self.nbd = random.Random(seed), Nbd(path, disk.name)
        # Held around each write: who holds all of a disk's knows what is on it.
        self.lock, self.ended, self.failure, self.writes = threading.Lock(), False, None, 0

    def run(self):
        try:
            while not self.ended:
                with self.lock:
                    self.write()
                time.sleep(self.random.choice((0, 0, 0.001, 0.01)))
        except Gone:
            pass
        except Exception as failure:  # told by the main thread
            self.failure = failure

    def write(self):
        disk, kind = self.disk, self.random.random()
        if kind < 0.03:
            self.nbd.request(Nbd.FLUSH, 0, 0)
            for block in range(self.first, self.last):
                disk.possible[block] = {disk.tags[block]}
            return
        count = self.random.choice((1, 1, 2, 3, 16, 64))
        start = self.random.randrange(self.first, self.last - count)
        tag = 0 if kind < 0.15 else disk.new_tag()
        for block in range(start, start + count):
            disk.possible[block].add(tag)
        if tag:
            data = b"".join(content(block, tag) for block in range(start, start + count))
            self.nbd.request(Nbd.WRITE, start * BLOCK, len(data), data)
        else:
            self.nbd.request(Nbd.ZEROES, start * BLOCK, count * BLOCK)
        for block in range(start, start + count):
            disk.tags[block] = tag
        self.writes += 1


class Disk:
    """One disk: its chain of images, what is on it, and the job that is at it."""

    def __init__(self, name):
        self.name, self.chain, self.writers = name, [], []
        self.tags = [0] * BLOCKS
        # What a block may hold after a kill: what was flushed, and what was written since.
        self.possible = [{0} for _ in range(BLOCKS)]
        self.counter, self.counting = 0, threading.Lock()
        self.job = None
        # The images of incremental backups so far, if there is a bitmap of what was written since.
        self.backups = []

    def new_tag(self):
        with self.counting:
            self.counter += 1
            return self.counter

    def __enter__(self):
        for writer in self.writers:
            writer.lock.acquire()

    def __exit__(self, *_):
        for writer in self.writers:
            writer.lock.release()


class Stress:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.directory = tempfile.mkdtemp(prefix="ouzel-stress-", dir=options.directory)
        self.disks = [Disk("d0"), Disk("d1")]
        self.number, self.counts, self.writes = 0, collections.Counter(), 0
        self.process = self.monitor = None
        for disk in self.disks:
            disk.chain = [self.image()]

    # Images and nodes.

    def path(self, name):
        return os.path.join(self.directory, name)

    def image(self, kind="qcow2", backing=None):
        """A new image's node name; its file is called the same."""
        self.number += 1
        name = f"i{self.number}.{kind}"
        cluster = self.random.choice(("4k", "64k", "64k", "1M"))
        command = ["qemu-img", "create", "-q", "-f", kind]
        command += ["-o", f"cluster_size={cluster}"] if kind == "qcow2" else []
        command += ["-b", self.path(backing), "-F", backing.rsplit(".", 1)[1]] if backing else []
        subprocess.run([*command, self.path(name), str(SIZE)], check=True)
        return name

    def open(self, name, backing=None):
        file = {"driver": "file", "filename": self.path(name), "discard": "unmap"}
        # Without a backing image the one that the file names is left out.
        more = {"backing": backing} if name.endswith("qcow2") else {}
        kind = name.rsplit(".", 1)[1]
        self.monitor.run("blockdev-add", driver=kind, node_name=name, file=file, discard="unmap", **more)
        return name

    def forget(self, name):
        """A node and its file go."""
        self.monitor.run("blockdev-del", node_name=name)
        os.unlink(self.path(name))

    # The daemon.

    def start(self):
        for name in ("qmp", "nbd"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        with open(self.path("errors"), "ab") as errors:
            self.process = subprocess.Popen([
                self.options.program, "--chardev", f"socket,id=c,path={self.path('qmp')},server=on,wait=off",
                "--monitor", "c", "--object", "throttle-group,id=free",
                "--object", "throttle-group,id=few,x-iops-total=200", "--object", "throttle-group,id=slow,x-bps-total=8388608",
                "--nbd-server", f"addr.type=unix,addr.path={self.path('nbd')},max-connections=0",
            ], stdin=subprocess.DEVNULL, stderr=errors)
        deadline = time.monotonic() + PATIENCE
        while self.monitor is None:
            try:
                self.monitor = Monitor(self.path("qmp"), PATIENCE)
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(self.path("errors"), encoding="utf-8", errors="replace") as errors:
                        raise Wrong(f"the daemon does not start: {errors.read()[-2000:]}") from None
                time.sleep(0.02)
        for disk in self.disks:
            below = None
            for name in reversed(disk.chain):
                below = self.open(name, below)
            self.monitor.run("blockdev-add", driver="throttle", node_name=disk.name, throttle_group="free", file=below)
            self.monitor.run("block-export-add", type="nbd", id=disk.name, node_name=disk.name, name=disk.name, writable=True)
            disk.job, disk.backups, half = None, [], BLOCKS // 2
            disk.writers = [
                Writer(disk, self.path("nbd"), at, at + half, self.random.random()) for at in (0, half)
            ]
            self.read_again(disk)
            for writer in disk.writers:
                writer.start()

    def kill(self):
        """Kills the daemon; looks at every image."""
        self.process.kill()
        self.process.wait()
        self.monitor = None
        for disk in self.disks:
            for writer in disk.writers:
                writer.join(PATIENCE)
                self.writes += writer.writes
                if writer.failure:
                    raise writer.failure
            for name in disk.chain:
                check = subprocess.run(["qemu-img", "check", self.path(name)], capture_output=True, text=True)
                if check.returncode not in (0, 3):
                    raise Wrong(f"after a kill, {name}: {check.stdout}{check.stderr}")
        kept = {"qmp", "nbd", "errors"} | {name for disk in self.disks for name in disk.chain}
        for name in set(os.listdir(self.directory)) - kept:
            os.unlink(self.path(name))
        self.counts["kill"] += 1

    def read_again(self, disk):
        """After a kill: each block holds what was flushed or something later."""
        reader = Nbd(self.path("nbd"), disk.name)
        data = b"".join(reader.request(Nbd.READ, at, SIZE // 16) for at in range(0, SIZE, SIZE // 16))
        for block in range(BLOCKS):
            tag = tag_of(block, data[block * BLOCK:(block + 1) * BLOCK])
            if tag not in disk.possible[block]:
                raise Wrong(f"block {block} of {disk.name} after a kill: {tag}, not one of {disk.possible[block]}")
            disk.tags[block], disk.possible[block] = tag, {tag}

    def compare(self, data, tags, what):
        for block in range(BLOCKS):
            here = data[block * BLOCK:(block + 1) * BLOCK]
            if here != content(block, tags[block]):
                raise Wrong(f"{what}: block {block} should be of write {tags[block]}, is of {tag_of(block, here)}")

    def check_disk(self, disk):
        reader = Nbd(self.path("nbd"), disk.name)
        with disk:
            data = b"".join(reader.request(Nbd.READ, at, SIZE // 16) for at in range(0, SIZE, SIZE // 16))
            self.compare(data, disk.tags, f"the disk {disk.name}")
        self.counts["disk read"] += 1

    def check_copy(self, name, tags, what):
        """A copy that nobody has open is the disk of its moment."""
        plain = self.path("plain")
        subprocess.run(["qemu-img", "convert", "-O", "raw", "-f", name.rsplit(".", 1)[1], self.path(name), plain], check=True)
        with open(plain, "rb") as file:
            self.compare(file.read(), tags, f"{what} in {name}")
        os.unlink(plain)
        self.counts[what] += 1

    # Jobs.

    def common(self):
        self.number += 1
        speed = self.random.choice((0, 0, 1 << 20, 4 << 20, 16 << 20))
        return {"job-id": f"j{self.number}", "speed": speed, "auto-dismiss": False}

    def begin(self, disk, kind, common, command=None, **arguments):
        """Starts a job, unless a transaction has done it; `disk.job` knows what it is."""
        if command:
            self.monitor.run(command, **common, **arguments)
        disk.job = {"id": common["job-id"], "kind": kind, "cancelled": False, "tags": None}

    def new_job(self, disk):
        top, length = disk.chain[0], len(disk.chain)
        kind = self.random.choice(("backup", "backup", "mirror", "mirror", "stream", "commit", "commit", "snapshot", "incremental"))
        common = self.common()
        if kind == "backup":
            name = self.open(self.image(self.random.choice(("qcow2", "raw"))))
            compress = name.endswith("qcow2") and self.random.random() < 0.3
            with disk:
                self.begin(disk, "backup", common, "blockdev-backup", device=top, target=name, sync="full", compress=compress)
                disk.job["tags"] = disk.tags[:]
            disk.job["copy"] = name
        elif kind == "incremental":
            self.incremental(disk, common)
        elif kind == "mirror":
            name = self.open(self.image("qcow2"))
            mode = self.random.choice(("background", "write-blocking"))
            granularity = self.random.choice((4096, 65536, 1 << 20))
            self.begin(disk, "mirror", common, "blockdev-mirror", device=disk.name, target=name, sync="full",
                       replaces=top, copy_mode=mode, granularity=granularity)
            disk.job["copy"] = name
        elif kind == "stream" and length > 1:
            below = disk.chain[self.random.randrange(1, length + 1):]
            base = {"base_node": below[0]} if below else {}
            self.begin(disk, "stream", common, "block-stream", device=top, **base)
            disk.job["chain"] = [top, *below]
        elif kind == "commit" and length > 1:
            first = self.random.randrange(length - 1)
            last = self.random.randrange(first + 1, length)
            names = {"top_node": disk.chain[first], "base_node": disk.chain[last]}
            self.begin(disk, "commit", common, "block-commit", device=disk.name, **names)
            disk.job["chain"] = disk.chain[:first] + disk.chain[last:]
            disk.job["active"] = first == 0
        elif length < 6:
            self.snapshot([disk])

    def incremental(self, disk, common):
        top = disk.chain[0]
        if not disk.backups:
            name = self.open(self.image("qcow2"))
            backup = {**common, "device": top, "target": name, "sync": "full"}
            actions = [{"type": "block-dirty-bitmap-add", "data": {"node": top, "name": "since"}},
                       {"type": "blockdev-backup", "data": backup}]
            with disk:
                self.monitor.run("transaction", actions=actions)
                self.begin(disk, "full backup with a bitmap", common)
                disk.job["tags"] = disk.tags[:]
        else:
            name = self.open(self.image("qcow2", disk.backups[-1]))
            with disk:
                self.begin(disk, "incremental backup", common, "blockdev-backup", device=top, target=name,
                           sync="incremental", bitmap="since")
                disk.job["tags"] = disk.tags[:]
        disk.job.update(copy=name, keep=True)

    def drop_backups(self, disk, node):
        """The bitmap stays with an image that is no longer written to."""
        if disk.backups:
            self.monitor.run("block-dirty-bitmap-remove", node=node, name="since")
            for name in disk.backups:
                os.unlink(self.path(name))
            disk.backups = []

    def snapshot(self, disks):
        for disk in disks:
            self.drop_backups(disk, disk.chain[0])
        names = [self.open(self.image("qcow2", disk.chain[0])) for disk in disks]
        pairs = list(zip(disks, names))
        if len(disks) == 1 and self.random.random() < 0.5:
            self.monitor.run("blockdev-snapshot", node=disks[0].chain[0], overlay=names[0])
        else:
            actions = [{"type": "blockdev-snapshot", "data": {"node": disk.chain[0], "overlay": name}} for disk, name in pairs]
            self.monitor.run("transaction", actions=actions)
        for disk, name in pairs:
            disk.chain.insert(0, name)
        self.counts["snapshots in a transaction" if len(disks) > 1 else "snapshot"] += 1

    def pair(self):
        """Something for both disks at one moment."""
        kind = self.random.choice(("snapshot", "backup", "backup", "refused"))
        if kind == "snapshot":
            if all(len(disk.chain) < 6 for disk in self.disks):
                self.snapshot(self.disks)
            return
        names = [self.open(self.image(self.random.choice(("qcow2", "raw")))) for _ in self.disks]
        commons = [self.common() for _ in self.disks]
        actions = [
            {"type": "blockdev-backup", "data": {**common, "device": disk.chain[0], "target": name, "sync": "full"}}
            for disk, name, common in zip(self.disks, names, commons)
        ]
        if kind == "refused":
            actions.append({"type": "block-dirty-bitmap-clear", "data": {"node": "nobody", "name": "none"}})
            if "error" not in self.monitor.ask("transaction", actions=actions):
                raise Wrong("a transaction with a bad action was done")
            deadline = time.monotonic() + PATIENCE
            while jobs := self.monitor.run("query-jobs"):
                for job in jobs:
                    self.monitor.ask("job-dismiss", id=job["id"])
                if time.monotonic() > deadline:
                    raise Wrong(f"jobs of a refused transaction: {jobs}")
            for name in names:
                self.forget(name)
            self.counts["refused transaction"] += 1
            return
        mode = self.random.choice(("grouped", "individual"))
        with self.disks[0], self.disks[1]:
            self.monitor.run("transaction", actions=actions, properties={"completion-mode": mode})
            for disk, name, common in zip(self.disks, names, commons):
                self.begin(disk, f"{mode} backups in a transaction", common)
                disk.job.update(copy=name, tags=disk.tags[:], group=mode == "grouped")

    def end_of_job(self, disk, info):
        """A job has concluded."""
        job, disk.job = disk.job, None
        error = info.get("error")
        self.monitor.run("job-dismiss", id=job["id"])
        if error and not job["cancelled"]:
            raise Wrong(f"the job {job}: {error}")
        copy = job.get("copy")
        if job["cancelled"] and error:
            self.counts["cancelled"] += 1
            if copy:
                self.forget(copy)
            if job["kind"] == "full backup with a bitmap":
                self.monitor.run("block-dirty-bitmap-remove", node=disk.chain[0], name="since")
            return
        if job.get("pivot"):
            # The disk is the copy now; what was below it goes.
            self.drop_backups(disk, disk.chain[0])
            old, disk.chain = disk.chain, [copy]
            for name in old:
                self.forget(name)
            self.counts["mirror, completed"] += 1
        elif copy:
            self.monitor.run("blockdev-del", node_name=copy)
            self.check_copy(copy, job["tags"], "mirror, cancelled when ready" if job["kind"] == "mirror" else job["kind"])
            if job.get("keep"):
                disk.backups.append(copy)
            else:
                os.unlink(self.path(copy))
        else:
            if job["kind"] == "commit" and job["active"]:
                self.drop_backups(disk, disk.chain[0])
            gone = [name for name in disk.chain if name not in job["chain"]]
            disk.chain = job["chain"]
            for name in gone:
                self.forget(name)
            self.counts[job["kind"]] += 1
        self.check_disk(disk)

    def is_ready_for(self, disk, info):
        """What a client does to a job that waits for it."""
        job = disk.job
        if info["status"] != "ready" or job["cancelled"] or self.random.random() < 0.7:
            return
        with disk:
            if job["kind"] == "mirror" and self.random.random() < 0.4:
                # It may have been paused since.
                if "error" in self.monitor.ask("block-job-cancel", device=job["id"]):
                    return
                job["tags"] = disk.tags[:]
                job["cancelled"] = True
            else:
                if "error" in self.monitor.ask("job-complete", id=job["id"]):
                    return
                job["pivot"] = job["kind"] == "mirror"
            self.wait(disk)

    def wait(self, disk):
        """Until the job at the disk has concluded, while nobody writes."""
        deadline = time.monotonic() + PATIENCE
        while True:
            infos = [info for info in self.monitor.run("query-jobs") if info["id"] == disk.job["id"]]
            if infos[0]["status"] == "concluded":
                return
            if time.monotonic() > deadline:
                raise Wrong(f"the job {disk.job} hangs: {infos}")
            if infos[0]["status"] in ("paused", "standby"):
                self.monitor.ask("job-resume", id=disk.job["id"])

    def disturb(self):
        disk = self.random.choice(self.disks)
        kind = self.random.random()
        if disk.job is None:
            if kind < 0.1:
                # Into another group while requests run.
                node = {"driver": "throttle", "node-name": disk.name, "file": disk.chain[0]}
                node["throttle-group"] = self.random.choice(("free", "free", "few", "slow"))
                self.monitor.run("blockdev-reopen", options=[node])
                self.counts["throttle"] += 1
            elif kind < 0.35 and all(other.job is None for other in self.disks):
                self.pair()
            else:
                self.new_job(disk)
        else:
            name, group = disk.job["id"], disk.job.get("group")
            if kind < 0.4:
                self.counts["pause"] += "return" in self.monitor.ask("job-pause", id=name)
            elif kind < 0.75:
                self.monitor.ask("job-resume", id=name)
            elif kind < 0.9:
                self.monitor.ask("block-job-set-speed", device=name, speed=self.random.choice((0, 1 << 20, 32 << 20)))
            elif kind < 0.95 and "return" in self.monitor.ask("block-job-cancel", device=name, force=True):
                for other in self.disks if group else [disk]:
                    if other.job:
                        other.job["cancelled"] = True

    def step(self):
        infos = {info["id"]: info for info in self.monitor.run("query-jobs")}
        for disk in self.disks:
            if disk.job is None:
                continue
            info = infos.get(disk.job["id"])
            if info is None:
                raise Wrong(f"the job {disk.job} is not there")
            if info["status"] != "concluded":
                self.is_ready_for(disk, info)
                # Before a kill: after a pivot the writers write, and flush, to the copy.
                info = next(info for info in self.monitor.run("query-jobs") if info["id"] == disk.job["id"])
            if info["status"] == "concluded":
                self.end_of_job(disk, info)
        for writer in (writer for disk in self.disks for writer in disk.writers):
            if writer.failure:
                raise writer.failure
        if self.process.poll() is not None:
            raise Gone
        self.disturb()
        time.sleep(self.random.choice((0, 0.01, 0.05)))

    def run(self):
        self.start()
        began = time.monotonic()
        told, kill_at = began, began + self.random.uniform(*self.options.kills)
        while time.monotonic() < began + self.options.seconds:
            self.step()
            if time.monotonic() > kill_at:
                self.kill()
                self.start()
                kill_at = time.monotonic() + self.random.uniform(*self.options.kills)
            if time.monotonic() > told + 60:
                told = time.monotonic()
                print(f"{told - began:6.0f} s  {self.summary()}", flush=True)
        self.kill()
        self.start()
        self.process.kill()
        self.process.wait()
        print(f"PASS after {time.monotonic() - began:.0f} s: {self.summary()}")
        shutil.rmtree(self.directory)

    def summary(self):
        writes = self.writes + sum(writer.writes for disk in self.disks for writer in disk.writers if writer.is_alive())
        return f"{writes} writes; " + ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=float, nargs=2, default=(5, 60), help="seconds between kills, at least and at most")
    parser.add_argument("--directory", help="where the images are; /dev/shm keeps a real disk out of it")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    stress = Stress(options)
    try:
        stress.run()
    except (Wrong, Gone, OSError) as failure:
        log = "\n".join(stress.monitor.log if stress.monitor else [])
        with open(stress.path("errors"), encoding="utf-8", errors="replace") as errors:
            said = errors.read()[-3000:]
        print(f"FAIL: {failure!r}\n{log}\n{said}\n{stress.summary()}\nthe images are in {stress.directory}")
        if stress.process:
            stress.process.kill()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
