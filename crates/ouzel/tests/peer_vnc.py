"""A client that other people have written: peer_vnc.py MONITOR DISPLAY PASSWORD DIRECTORY.

vncdotool captures the screen, types and points; the picture has to be that of `screendump`, pixel for pixel. The machine
stands in firmware, with a tablet. What viewers show in each encoding: peer_vnc_viewer.py.
"""
import asyncio
import os
import subprocess
import sys
import time

from PIL import Image, ImageChops
from qemu.qmp import QMPClient


def vncdo(display, password, *words):
    port = 5900 + int(display)
    command = [os.path.join(os.path.dirname(sys.executable), "vncdo"), "-s", f"127.0.0.1::{port}", "-p", password, *words]
    subprocess.run(["timeout", "60", *command], check=True, stdout=subprocess.DEVNULL)


def equal(one, other):
    one, other = (Image.open(path).convert("RGB") for path in (one, other))
    return one.size == other.size and one.tobytes() == other.tobytes()


async def main(monitor, display, password, directory):
    client = QMPClient("vnc")
    await client.connect(monitor)

    async def dump(name):
        path = os.path.join(directory, name)
        await client.execute("screendump", {"filename": path})
        return path

    await client.execute("set_password", {"protocol": "vnc", "password": password})
    # The screen stands still when two pictures in a row are equal.
    while True:
        first = await dump("first.ppm")
        await asyncio.sleep(1)
        if equal(first, await dump("second.ppm")):
            break
    captured = os.path.join(directory, "captured.png")

    async def comes_to_show(picture):
        """Whether the screen shows `picture` within three seconds: a cursor that blinks makes two pictures of it."""
        end = time.time() + 3
        while time.time() < end:
            if equal(picture, await dump("wanted.ppm")):
                return True
            await asyncio.sleep(0.05)
        return False

    # The firmware may still write after a pause.
    end = time.time() + 90
    while time.time() < end:
        await asyncio.to_thread(vncdo, display, password, "capture", captured)
        if await comes_to_show(captured):
            break
    else:
        one, other = (Image.open(path).convert("RGB") for path in (captured, os.path.join(directory, "wanted.ppm")))
        where = ImageChops.difference(one, other).getbbox() if one.size == other.size else None
        raise AssertionError(f"vncdotool shows something else: {one.size}, {other.size}, first to last difference {where}")
    wrong = await asyncio.create_subprocess_exec(
        "timeout", "20", os.path.join(os.path.dirname(sys.executable), "vncdo"), "-s", f"127.0.0.1::{5900 + int(display)}",
        "-p", "wrong", "key", "a", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert await wrong.wait() != 0, "a wrong password was taken"
    await asyncio.to_thread(vncdo, display, password, "move", "100", "100", "click", "1", "type", "abc")
    print("ok")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 400))
