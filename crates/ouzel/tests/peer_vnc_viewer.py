"""Other people's VNC viewers on a line: peer_vnc_viewer.py vncdotool|tigervnc PORT DIRECTORY.

A request is a line on standard input, its answer one on standard output:
  open ENCODING [COPIES] [QUALITY]  connects and asks for this encoding (a number), with CopyRect, with JPEG of a quality
  shot FILE                         writes what the viewer shows as a PPM
  used                              the encodings of the rectangles that came since `open`, where the viewer tells
  close                             disconnects
`answer` is `ok …`, or `skip …` where this viewer does not know the encoding.
"""
import os
import shlex
import subprocess
import sys
import time


def ppm(path, image):
    image = image.convert("RGB")
    with open(path, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % image.size + image.tobytes())


class Vncdotool:
    KNOWN = {0: "RAW", 2: "RRE", 4: "CORRE", 5: "HEXTILE", 16: "ZRLE"}

    def __init__(self, port, _directory):
        self.port, self.client, self.seen = port, None, set()

    def open(self, encoding, copies, quality):
        from vncdotool import api, rfb
        from vncdotool.client import VNCDoToolClient, VNCDoToolFactory
        if encoding not in self.KNOWN or quality is not None:
            return "skip"
        seen = self.seen = set()

        class Client(VNCDoToolClient):
            def setEncodings(self, encodings):
                pseudo = [number for number in encodings if number < 0]
                super().setEncodings([1] * copies + [encoding] + pseudo)

            def _handleRectangle(self, block):
                seen.add(int.from_bytes(block[8:12], "big", signed=True))
                super()._handleRectangle(block)

            def copyRectangle(self, srcx, srcy, x, y, width, height):
                part = self.screen.crop((srcx, srcy, srcx + width, srcy + height))
                self.screen.paste(part, (x, y))

        class Factory(VNCDoToolFactory):
            protocol = Client

        self.client = api.connect(f"127.0.0.1::{self.port}", factory_class=Factory, timeout=60)
        self.client.refreshScreen()
        return "ok"

    def shot(self, path):
        from twisted.internet import reactor
        # Only what is new is asked for: what is there has to stay right. There may be nothing.
        reactor.callFromThread(self.client.protocol.framebufferUpdateRequest, incremental=True)
        time.sleep(0.3)
        ppm(path, self.client.screen)
        return "ok"

    def used(self):
        return " ".join(["ok", *(str(number) for number in sorted(self.seen) if number >= 0)])

    def close(self):
        self.client.disconnect()
        return "ok"


class Tigervnc:
    KNOWN = {0: "Raw", 5: "Hextile", 7: "Tight", 16: "ZRLE"}

    def __init__(self, port, directory):
        self.port, self.directory, self.processes = port, directory, []

    def open(self, encoding, copies, quality):
        # Copies are always among what it asks for.
        if encoding not in self.KNOWN or not copies:
            return "skip"
        ready, told = os.pipe()
        # The server takes a number that is free, and tells it when clients may come. Its screen is the guest's.
        xvfb = subprocess.Popen(["Xvfb", "-displayfd", str(told), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
                                pass_fds=[told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes = [xvfb]
        os.close(told)
        with os.fdopen(ready) as file:
            self.environment = dict(os.environ, DISPLAY=f":{int(file.readline())}", HOME=self.directory)
        jpeg = ["-NoJPEG=1"] if quality is None else ["-NoJPEG=0", f"-QualityLevel={quality}"]
        viewer = subprocess.Popen(
            ["xtigervncviewer", "-SecurityTypes=None", f"-PreferredEncoding={self.KNOWN[encoding]}", "-AutoSelect=0",
             "-FullColor=1", *jpeg, "-FullScreen=1", "-Shared=1", "-RemoteResize=0", "-CustomCompressLevel=1",
             "-CompressLevel=1", f"127.0.0.1::{self.port}"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(viewer)
        return "ok"

    def shot(self, path):
        from PIL import Image
        if self.processes[1].poll() is not None:
            return "the viewer ended"
        end = time.time() + 30
        while True:
            done = subprocess.run(["import", "-window", "root", f"png:{path}.png"], env=self.environment)
            if done.returncode == 0:
                break
            if time.time() > end:
                return "no screen"
            time.sleep(0.2)
        ppm(path, Image.open(f"{path}.png"))
        return "ok"

    def used(self):
        return "skip"

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()
        self.processes = []
        return "ok"


def main(kind, port, directory):
    viewer = {"vncdotool": Vncdotool, "tigervnc": Tigervnc}[kind](port, directory)
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            name, *words = shlex.split(line)
            if name == "open":
                encoding, copies, quality = words
                answer = viewer.open(int(encoding), copies == "yes", None if quality == "-" else int(quality))
            else:
                answer = getattr(viewer, name)(*words)
            print(answer, file=answers)
    finally:
        if kind == "tigervnc":
            viewer.close()
    os._exit(0)


main(*sys.argv[1:])
