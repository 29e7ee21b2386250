"""Drives every command with the Python package qemu.qmp: peer_qmp.py SOCKET DIRECTORY.

The machine runs guests/hello on two processors. Ends with `quit`; prints `ok: N commands` when all went well.
"""
import asyncio
import os
import socket
import sys

from qemu.qmp import ExecuteError, QMPClient


async def refused(client, text, command, **arguments):
    """The command must fail with this text."""
    try:
        result = await client.execute(command, arguments or None)
    except ExecuteError as error:
        assert text in str(error), f"{command}: {error}"
    else:
        raise AssertionError(f"{command} gave {result}")


async def send_with_descriptor(client, descriptor, command, arguments):
    """What qemu.qmp has no method for: a descriptor that travels ahead of its request."""
    with open(descriptor, "rb") as held:
        client.send_fd_scm(held.fileno())
        return await client.execute(command, arguments)


NO_LIMITS = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}


async def job_ends(run, name):
    """Waits until the job has concluded, and gives its entry."""
    while True:
        job = next(job for job in await run("query-jobs") if job["id"] == name)
        if job["status"] == "concluded":
            return job
        await asyncio.sleep(0.01)


async def wires(run, told, directory):
    """The commands of character devices."""
    null = {"type": "null", "data": {}}
    path = os.path.join(directory, "wire")
    assert {"name": "socket"} in await run("query-chardev-backends")
    assert await run("chardev-add", id="w", backend=null) == {}
    await told("Chardev with id 'w' already exists", "chardev-add", id="w", backend=null)
    changed = await run("chardev-change", id="w", backend={"type": "pty", "data": {}})
    assert changed["pty"].startswith("/dev/pts/"), changed
    socket = {"addr": {"type": "unix", "data": {"path": path}}}
    await run("chardev-change", id="w", backend={"type": "socket", "data": socket})
    assert {"label": "w", "filename": f"disconnected:unix:{path},server=on", "frontend-open": False} in (
        await run("query-chardev")
    )
    await told("does not exist", "chardev-change", id="x", backend=null)
    await run("chardev-send-break", id="w")
    await run("chardev-remove", id="w")
    await told("Chardev 'w' not found", "chardev-remove", id="w")
    await run("chardev-add", id="r", backend={"type": "ringbuf", "data": {"size": 8}})
    await run("ringbuf-write", device="r", data="hello")
    await run("ringbuf-write", device="r", data="d29ybGQ=", format="base64")
    assert await run("ringbuf-read", device="r", size=3) == "llo"
    assert await run("ringbuf-read", device="r", size=9, format="base64") == "d29ybGQ="
    await told("must be greater than zero", "ringbuf-read", device="r", size=0)
    await run("chardev-remove", id="r")


async def block(run, told, directory):
    """The commands of the block layer, on an empty drive `cd` and on nodes of our own."""
    image = os.path.join(directory, "made.img")
    await run("blockdev-create", job_id="make", options={"driver": "file", "filename": image, "size": 1 << 16})
    assert "error" not in await job_ends(run, "make")
    for command in ("job-cancel", "job-pause", "job-complete", "job-finalize"):
        await told("cannot accept command verb", command, id="make")
    await told("not paused", "job-resume", id="make")
    await run("job-dismiss", id="make")
    assert await run("query-jobs") == []

    await run("object-add", **{"qom-type": "iothread", "id": "io9"})
    assert [thread["id"] for thread in await run("query-iothreads")] == ["io9"]
    await run("object-del", id="io9")

    file = {"driver": "file", "filename": image}
    await run("blockdev-add", driver="raw", **{"node-name": "n", "file": file})
    await run("block_resize", **{"node-name": "n", "size": 1 << 17})
    await run("block-set-write-threshold", **{"node-name": "n", "write-threshold": 4096})
    nodes = {node["node-name"]: node for node in await run("query-named-block-nodes")}
    assert nodes["n"]["image"]["virtual-size"] == 1 << 17 and nodes["n"]["write_threshold"] == 4096, nodes["n"]
    await run("blockdev-reopen", options=[{"driver": "raw", "node-name": "n", "read-only": True, "file": file}])
    assert next(node for node in await run("query-named-block-nodes") if node["node-name"] == "n")["ro"]

    await run("x-blockdev-insert-medium", device="cd", **{"node-name": "n"})
    await run("block_set_io_throttle", device="cd", **{**NO_LIMITS, "iops": 100})
    assert (await run("query-block"))[0]["inserted"]["iops"] == 100
    await run("block_set_io_throttle", device="cd", **NO_LIMITS)
    await told("not found", "block-latency-histogram-set", id="cd", boundaries=[1000, 2000])
    assert (await run("query-blockstats"))[0]["stats"]["rd_operations"] == 0
    await told("without a backing file", "change-backing-file",
                  **{"device": "cd", "image-node-name": "n", "backing-file": "x"})
    await run("x-blockdev-remove-medium", device="cd")
    await run("blockdev-del", **{"node-name": "n"})
    await run("blockdev-change-medium", device="cd", filename=image, format="raw")
    await run("eject", device="cd")
    await run("change", device="cd", target=image, arg="raw")
    await run("eject", device="cd")
    # A drive without a device has no id for these.
    for command in ("blockdev-open-tray", "blockdev-close-tray", "blockdev-remove-medium"):
        await told("not found", command, id="gone")
    await told("not found", "blockdev-insert-medium", **{"id": "gone", "node-name": "n"})
    await told("no longer supported", "block_passwd", device="cd", password="x")
    await told("Cannot find node", "x-blockdev-del", **{"node-name": "gone"})


async def rewired(run, told, file):
    """Nodes that change their children, in both spellings."""
    for name in ("a", "b", "c"):
        await run("blockdev-add", driver="null-co", size=65536, **{"node-name": name, "read-zeroes": True})
    await run("blockdev-add", driver="quorum", children=["a", "b"], **{"node-name": "q", "vote-threshold": 1})
    await run("x-blockdev-change", parent="q", node="c")
    await told("does not have child", "x-blockdev-change", parent="q", child="children.7")
    await run("x-blockdev-change", parent="q", child="children.2")
    graph = await run("x-debug-query-block-graph")
    numbers = {node["name"]: node["id"] for node in graph["nodes"] if node["type"] == "block-driver"}
    assert any(edge["parent"] == numbers["q"] for edge in graph["edges"])
    await told("Cannot find iothread nosuch", "x-blockdev-set-iothread", **{"node-name": "c", "iothread": "nosuch"})
    await told("Failed to find node", "x-blockdev-set-iothread", **{"node-name": "nosuch", "iothread": None})
    await run("x-blockdev-set-iothread", node_name="c", iothread=None)
    for name in ("q", "a", "b", "c"):
        await run("blockdev-del", **{"node-name": name})
    await run("blockdev-add", driver="raw", **{"node-name": "r", "file": file})
    await run("x-blockdev-reopen", driver="raw", **{"node-name": "r", "read-only": True, "file": file})
    await run("blockdev-del", **{"node-name": "r"})


async def snapshots(run, told, directory):
    """Bitmaps, snapshots and transactions, on an image of our own."""
    path = os.path.join(directory, "snap.qcow2")
    await run("blockdev-create", job_id="file", options={"driver": "file", "filename": path, "size": 0})
    await job_ends(run, "file")
    await run("blockdev-add", driver="file", filename=path, **{"node-name": "sf"})
    await run("blockdev-create", job_id="image", options={"driver": "qcow2", "file": "sf", "size": 1 << 20})
    await job_ends(run, "image")
    for job in ("file", "image"):
        await run("job-dismiss", id=job)
    await run("blockdev-add", driver="qcow2", file="sf", **{"node-name": "s"})
    await run("block-dirty-bitmap-add", node="s", name="a", persistent=True)
    await run("block-dirty-bitmap-add", node="s", name="b")
    for command in ("disable", "enable", "clear"):
        await run(f"block-dirty-bitmap-{command}", node="s", name="a")
    for command in ("disable", "enable"):
        await run(f"x-block-dirty-bitmap-{command}", node="s", name="a")
    await run("block-dirty-bitmap-merge", node="s", target="a", bitmaps=["b", {"node": "s", "name": "b"}])
    old = {"node": "s", "dst_name": "a", "src_name": "b"}
    await run("x-block-dirty-bitmap-merge", **old)
    assert len((await run("x-debug-block-dirty-bitmap-sha256", node="s", name="a"))["sha256"]) == 64
    await run("block-dirty-bitmap-remove", node="s", name="b")
    await run("blockdev-snapshot-internal-sync", device="s", name="inside")
    gone = await run("blockdev-snapshot-delete-internal-sync", device="s", name="inside")
    assert (gone["id"], gone["name"]) == ("1", "inside"), gone
    await told("Cannot find device", "blockdev-snapshot", node="gone", overlay="s")
    over = {"node-name": "s", "snapshot-file": path + ".over", "snapshot-node-name": "o"}
    await told("Cannot find device", "blockdev-snapshot-sync", device="gone", **{"snapshot-file": path})
    abort = {"type": "abort", "data": {}}
    snapshot = {"type": "blockdev-snapshot-sync", "data": over}
    await told("using Abort action", "transaction", actions=[snapshot, abort])
    await run("transaction", actions=[snapshot], properties={"completion-mode": "individual"})
    for name in ("s", "sf"):
        await run("blockdev-del", **{"node-name": name})


async def exported(run, told, event, directory):
    """A node over NBD, in all spellings."""
    socket = os.path.join(directory, "nbd.sock")
    await run("blockdev-add", driver="null-co", size=65536, **{"node-name": "e"})
    await told("not running", "nbd-server-stop")
    await run("nbd-server-start", addr={"type": "unix", "data": {"path": socket}})
    await run("block-export-add", type="nbd", id="one", **{"node-name": "e", "writable": True})
    exports = [{"id": "one", "type": "nbd", "node-name": "e", "shutting-down": False}]
    assert await run("query-block-exports") == exports
    await run("block-export-del", id="one")
    assert await event("BLOCK_EXPORT_DELETED") == {"id": "one"}
    await run("nbd-server-add", device="e")
    await run("nbd-server-remove", name="e")
    assert await event("BLOCK_EXPORT_DELETED") == {"id": "e"}
    await run("nbd-server-stop")
    await run("nbd-server-start", addr={"type": "unix", "path": socket}, max_connections=1)
    await run("nbd-server-stop")
    await run("blockdev-del", **{"node-name": "e"})


async def copies(run, told):
    """Jobs that copy, from one node of zeroes to another."""
    async def reaches(name, status):
        while True:
            jobs = {job["device"]: job for job in await run("query-block-jobs")}
            if name not in jobs or jobs[name]["status"] == status:
                return jobs.get(name)
            await asyncio.sleep(0.01)

    for name in ("js", "jt"):
        await run("blockdev-add", driver="null-co", size=1 << 20, **{"node-name": name, "read-zeroes": True})
    wish = {"device": "js", "target": "jt", "sync": "full"}
    await told("Invalid job ID ''", "blockdev-mirror", **wish)
    await run("blockdev-mirror", job_id="m", auto_dismiss=False, **wish)
    assert (await reaches("m", "ready"))["ready"] is True
    await told("is busy", "blockdev-backup", **{**wish, "job-id": "b", "device": "jt", "target": "js"})
    await run("block-job-set-speed", device="m", speed=1 << 20)
    await run("block-job-pause", device="m")
    await told("already paused", "block-job-pause", device="m")
    await run("block-job-resume", device="m")
    await reaches("m", "ready")
    await run("block-job-change", id="m", type="mirror", copy_mode="write-blocking")
    await told("is of type 'mirror'", "block-job-change", id="m", type="stream")
    await run("block-job-complete", device="m")
    await reaches("m", "concluded")
    await run("block-job-dismiss", id="m")
    await run("blockdev-backup", job_id="b", auto_finalize=False, **wish)
    await reaches("b", "pending")
    await run("block-job-finalize", id="b")
    assert await reaches("b", "null") is None
    await run("blockdev-backup", job_id="b", **{**wish, "sync": "none"})
    await run("block-job-cancel", device="b", force=True)
    assert await reaches("b", "null") is None
    for command in ("drive-mirror", "drive-backup"):
        await told("Cannot find device", command, device="gone", target="x", sync="full")
    amended = {"node-name": "js", "job-id": "a"}
    await told("doesn't support changing the block driver", "x-blockdev-amend", options={"driver": "qcow2"}, **amended)
    await told("Cannot find device", "block-stream", device="gone")
    await told("not found", "block-commit", device="gone")
    for name in ("js", "jt"):
        await run("blockdev-del", **{"node-name": name})


async def screen(run, told, directory):
    """The screen, the keys and what PCI shows."""
    picture = os.path.join(directory, "screen.ppm")
    await run("screendump", filename=picture)
    with open(picture, "rb") as saved:
        assert saved.read(3) == b"P6\n"
    await run("send-key", keys=[{"type": "qcode", "data": "a"}])
    key = {"down": True, "key": {"type": "qcode", "data": "b"}}
    await run("input-send-event", events=[{"type": "key", "data": key}])
    assert [mouse["current"] for mouse in await run("query-mice")] == [True]
    devices = (await run("query-pci"))[0]["devices"]
    assert any(device["class_info"]["class"] == 0x300 for device in devices), devices
    assert (await run("query-current-machine"))["wakeup-suspend-support"] is True
    await told("not in suspended state", "system_wakeup")


async def remote(client, run, told, directory):
    """VNC: one server on a Unix socket with a password, moved to TCP and back, and a client that is handed in."""
    here = {"type": "unix", "path": os.path.join(directory, "vnc")}
    told_info = await run("query-vnc")
    assert told_info["enabled"] and told_info["auth"] == "vnc" and told_info["clients"] == [], told_info
    servers = await run("query-vnc-servers")
    assert [server["id"] for server in servers] == ["default"] and servers[0]["server"][0]["family"] == "unix", servers
    await run("change-vnc-password", password="secret")
    await run("set_password", **{"protocol": "vnc", "password": "secret", "connected": "keep"})
    await told("Invalid parameter 'connected'", "set_password", protocol="vnc", password="x", connected="fail")
    spice = await run("query-spice")
    assert spice["enabled"] and spice["auth"] == "spice" and spice["channels"] == [], spice
    await run("set_password", protocol="spice", password="secret", connected="disconnect")
    await told("Could not set password", "set_password", protocol="spice", password="x" * 61)
    await run("expire_password", protocol="spice", time="never")
    await run("expire_password", protocol="vnc", time="+60")
    await told("Could not set password expire time", "expire_password", protocol="vnc", time="now", display="other")
    await told("Parameter 'port/tls-port' is missing", "client_migrate_info", protocol="spice", hostname="h")
    await run("client_migrate_info", protocol="spice", hostname="h", port=1)
    await told("vnc tls is not enabled", "display-reload", type="vnc", **{"tls-certs": True})
    await run("display-update", type="vnc", addresses=[{"type": "inet", "host": "127.0.0.1", "port": "0"}])
    assert (await run("query-vnc"))["family"] == "ipv4"
    await run("display-update", type="vnc", addresses=[here])
    assert await run("query-display-options") == {"type": "none"}
    near, far = socket.socketpair()
    with near, far:
        client.send_fd_scm(far.fileno())
        await client.execute("getfd", {"fdname": "viewer"})
        await run("add_client", protocol="vnc", fdname="viewer", skipauth=True)
        near.settimeout(60)
        assert near.recv(12) == b"RFB 003.008\n"
    await told("has not been found", "add_client", protocol="vnc", fdname="viewer")


async def main(path, directory):
    used = set()
    client = QMPClient("peer")
    await client.connect(path)  # negotiates: qmp_capabilities
    used.add("qmp_capabilities")

    async def run(command, **arguments):
        used.add(command)
        # Python has no hyphens in names; the limits are the ones that QMP spells with underscores.
        spelled = lambda name: name if name.startswith(("bps_", "iops_", "dst_", "src_")) else name.replace("_", "-")
        arguments = {spelled(name): value for name, value in arguments.items()}
        return await asyncio.wait_for(client.execute(command, arguments or None), 60)

    async def told(text, command, **arguments):
        used.add(command)
        await refused(client, text, command, **arguments)

    async def event(name):
        async for message in client.events:
            if message["event"] == name:
                return message.get("data")

    version = await run("query-version")
    assert (version["qemu"]["major"], version["qemu"]["minor"]) == (7, 2), version
    commands = {entry["name"] for entry in await run("query-commands")}
    assert {entry["name"] for entry in await run("query-events")} >= {"STOP", "RESUME", "SHUTDOWN"}
    schema = {entry["name"]: entry for entry in await run("query-qmp-schema")}
    assert commands <= set(schema), commands - set(schema)
    assert (await run("query-status"))["status"] == "running"
    assert await run("query-name") == {}
    assert len((await run("query-uuid"))["UUID"]) == 36
    assert (await run("query-kvm"))["enabled"] is False
    assert (await run("query-target"))["arch"] == "x86_64"
    assert "Translation" in (await run("x-query-jit"))["human-readable-text"]
    for name, begin in (("irq", "IRQ statistics"), ("numa", "0 nodes"), ("ramblock", "              Block Name"), ("roms", "")):
        assert (await run(f"x-query-{name}"))["human-readable-text"].startswith(begin), name
    await told("USB support not enabled", "x-query-usb")
    assert await run("x-query-virtio") == []
    for name, what in (("status", "VirtIODevice"), ("queue-status", "VirtIODevice"), ("queue-element", "VirtIO device")):
        queue = {"queue": 0} if name.startswith("queue") else {}
        await told(f"Path /machine is not a {what}", f"x-query-virtio-{name}", path="/machine", **queue)
    # The software CPU's counters are no statistics of the host's kernel.
    assert await run("query-stats", target="vm") == await run("query-stats-schemas") == []
    assert any(machine.get("alias") == "pc" for machine in await run("query-machines"))
    assert [cpu["CPU"] for cpu in await run("query-cpus")] == [0, 1]
    assert [cpu["cpu-index"] for cpu in await run("query-cpus-fast")] == [0, 1]
    assert any(model["name"] == "qemu64" for model in await run("query-cpu-definitions"))
    assert len(await run("query-hotpluggable-cpus")) == 2
    assert [report["slot-type"] for report in await run("query-acpi-ospm-status")] == ["CPU", "CPU"]
    await told("already exists", "cpu-add", id=1)
    assert await run("query-command-line-options", option="chardev")
    assert await run("cpu", index=1) == {}
    await refused(client, "expects a CPU number", "cpu", index=7)

    await run("stop")
    await asyncio.wait_for(event("STOP"), 60)
    for command in ("memsave", "pmemsave"):
        name = os.path.join(directory, command)
        await run(command, val=0x200000, size=8, filename=name)
        with open(name, "rb") as saved:
            assert saved.read() == b"O0uzel!!", command
    await run("cont")
    await asyncio.wait_for(event("RESUME"), 60)

    sent = os.path.join(directory, "sent")
    with open(sent, "w", encoding="ascii") as file:
        file.write("sent")
    await refused(client, "No file descriptor supplied", "getfd", fdname="a")
    used.add("getfd")
    await send_with_descriptor(client, sent, "getfd", {"fdname": "a"})
    await run("closefd", fdname="a")
    await refused(client, "not found", "closefd", fdname="a")
    used.add("add-fd")
    added = await send_with_descriptor(client, sent, "add-fd", {"fdset-id": 3, "opaque": "mine"})
    assert added["fdset-id"] == 3
    sets = await run("query-fdsets")
    assert sets == [{"fdset-id": 3, "fds": [{"fd": added["fd"], "opaque": "mine"}]}], sets
    await run("remove-fd", fdset_id=3, fd=added["fd"])
    assert await run("query-fdsets") == []

    await wires(run, told, directory)
    await block(run, told, directory)
    await rewired(run, told, {"driver": "file", "filename": os.path.join(directory, "made.img")})
    await snapshots(run, told, directory)
    await exported(run, told, event, directory)
    await copies(run, told)
    await screen(run, told, directory)
    await remote(client, run, told, directory)

    await run("system_reset")
    assert (await asyncio.wait_for(event("RESET"), 60))["reason"] == "host-qmp-system-reset"
    await run("stop")
    assert {"name": "machine", "type": "child<pc-i440fx-7.2-machine>"} in await run("qom-list", path="/")
    assert await run("qom-get", path="/machine", property="type") == "pc-i440fx-7.2-machine"
    await told("not writable", "qom-set", path="/machine", property="type", value="x")
    await told("'/nothing' not found", "qom-list", path="/nothing")
    await run("device_add", driver="virtio-rng-pci", id="plugged", addr="0x1e", vectors="4")
    assert "plugged" in {entry["name"] for entry in await run("qom-list", path="/machine/peripheral")}
    await told("Duplicate device ID 'plugged'", "device_add", driver="virtio-rng-pci", id="plugged")
    await told("Bus 'isa.0' does not support hotplugging", "device_add", driver="ib700")
    await told("'nothing' is not a valid device model name", "device_add", driver="nothing")
    await told("Device 'nothing' not found", "device_del", id="nothing")
    await run("device_del", id="plugged")
    await run("system_reset")
    assert (await asyncio.wait_for(event("DEVICE_DELETED"), 60))["path"] == "/machine/peripheral/plugged/virtio-backend"
    types = {entry["name"] for entry in await run("qom-list-types", implements="device")}
    assert {"VGA", "ide-hd", "qemu64-x86_64-cpu"} <= types and "iothread" not in types, types
    assert {"name": "type", "type": "string"} in await run("qom-list-properties", typename="iothread")
    properties = {entry["name"]: entry["type"] for entry in await run("device-list-properties", typename="isa-serial")}
    assert properties["chardev"] == "str" and properties["index"] == "uint32", properties
    await told("expects a non-abstract device type", "device-list-properties", typename="device")
    memory = await run("query-memdev")
    size = await run("query-memory-size-summary")
    assert [entry["id"] for entry in memory] == ["pc.ram"] and memory[0]["size"] == size["base-memory"], memory
    await told("device not found", "query-vm-generation-id")
    await run("rtc-reset-reinjection")
    await told("before the machine has been created", "set-numa-node", type="node")
    await told("before machine initialization", "x-exit-preconfig")
    assert (await run("human-monitor-command", **{"command-line": "info status"})).startswith("VM status: ")
    await run("set-action", watchdog="pause", panic="none")
    await told("does not accept value 'sleep'", "set-action", reboot="sleep")
    await run("watchdog-set-action", action="reset")
    await run("inject-nmi")
    await run("system_powerdown")
    await asyncio.wait_for(event("POWERDOWN"), 60)
    await run("quit")
    assert (await asyncio.wait_for(event("SHUTDOWN"), 60))["reason"] == "host-qmp-quit"
    try:
        await client.disconnect()
    except (EOFError, ConnectionError):
        pass  # the server has closed the connection, as `quit` does: the library reports that here
    missing = commands - used
    assert not missing, f"not driven: {sorted(missing)}"
    print(f"ok: {len(used)} commands")


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 110))
