"""Other people's VNC clients: peer_vnc.py MONITOR DISPLAY PASSWORD DIRECTORY.

vncdotool captures the screen, types and points; TigerVNC's viewer shows it under Xvfb in each of its encodings. Both
pictures have to be that of `screendump`, pixel for pixel. The machine stands in firmware, with a tablet.
"""
import asyncio
import os
import shutil
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


def tigervnc(display, directory, encoding, levels):
    """Starts the viewer on a screen of its own; gives the processes."""
    # The server takes a number that is free, and tells it when clients may come.
    ready, told = os.pipe()
    xvfb = subprocess.Popen(["Xvfb", "-displayfd", str(told), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
                            pass_fds=[told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(told)
    with os.fdopen(ready) as file:
        number = int(file.readline())
    environment = dict(os.environ, DISPLAY=f":{number}", HOME=directory)
    viewer = subprocess.Popen(
        ["xtigervncviewer", "-SecurityTypes=VncAuth", f"-passwd={directory}/passwd", f"-PreferredEncoding={encoding}",
         "-AutoSelect=0", "-FullColor=1", "-NoJPEG=1", "-FullScreen=1", "-Shared=1", "-RemoteResize=0",
         f"-CompressLevel={levels}", "-CustomCompressLevel=1", f"127.0.0.1::{5900 + int(display)}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return xvfb, viewer, environment


def shown_by_tigervnc(display, directory, encoding, wanted):
    """Whether the viewer comes to show `wanted` somewhere on its screen."""
    xvfb, viewer, environment = tigervnc(display, directory, encoding, 1)
    try:
        picture = Image.open(wanted).convert("RGB")
        end = time.time() + 30
        while time.time() < end:
            path = os.path.join(directory, "x.png")
            subprocess.run(["import", "-window", "root", path], env=environment, check=True)
            screen = Image.open(path).convert("RGB")
            width, height = picture.size
            for place in ((0, 0), ((screen.width - width) // 2, (screen.height - height) // 2)):
                if screen.crop((*place, place[0] + width, place[1] + height)).tobytes() == picture.tobytes():
                    return True
            time.sleep(0.3)
        return False
    finally:
        for process in (viewer, xvfb):
            process.terminate()
            process.wait()


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
    if shutil.which("xtigervncviewer") and shutil.which("Xvfb") and shutil.which("import"):
        # What vncviewer's file of a password has: DES with a fixed key.
        with open(os.path.join(directory, "passwd"), "wb") as file:
            file.write(subprocess.run(["tigervncpasswd", "-f"], input=password.encode() + b"\n", check=True,
                                      stdout=subprocess.PIPE).stdout if shutil.which("tigervncpasswd") else obfuscated(password))
        wanted = await dump("wanted.ppm")
        for encoding in ("Raw", "Hextile", "ZRLE", "Tight"):
            shown = await asyncio.to_thread(shown_by_tigervnc, display, directory, encoding, wanted)
            assert shown, f"TigerVNC shows something else with {encoding}"
            print(f"TigerVNC with {encoding}: equal")
    else:
        print("skipped: TigerVNC's viewer, Xvfb and ImageMagick are not all there")
    print("ok")


def obfuscated(password):
    """The viewer's file of a password without its own tool, by OpenSSL."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in (23, 82, 107, 6, 35, 78, 88, 7))
    text = password.encode()[:8].ljust(8, b"\0")
    command = ["openssl", "enc", "-des-ecb", "-provider", "legacy", "-provider", "default", "-nopad", "-K", key.hex()]
    return subprocess.run(command, input=text, check=True, stdout=subprocess.PIPE).stdout


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 400))
