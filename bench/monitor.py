"""A QMP session for the scripts of this directory."""
import collections
import json
import socket
import time


class Wrong(Exception):
    """What must not be."""


class Gone(Exception):
    """The other end has ended."""


class Monitor:
    """A QMP session on a Unix socket. `log` has the last commands with their answers, `events` what came meanwhile."""

    def __init__(self, path, patience=120):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.stream.settimeout(patience)
        self.file = self.stream.makefile("rw")
        self.log = collections.deque(maxlen=80)
        self.events = collections.deque(maxlen=1000)
        self.read()
        self.run("qmp_capabilities")

    def read(self):
        line = self.file.readline()
        if not line:
            raise Gone
        return json.loads(line)

    def ask(self, command, **arguments):
        """The whole answer. A `_` in the name of an argument is a `-`."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer)
                continue
            if not command.startswith("query"):
                self.log.append(f"{command} {arguments} -> {answer}")
            return answer

    def run(self, command, **arguments):
        answer = self.ask(command, **arguments)
        if "return" not in answer:
            raise Wrong(f"{command} {arguments}: {answer}")
        return answer["return"]

    def wait_for_job(self, job, states):
        """Reads events until the job is in one of these states, which is returned."""
        while True:
            while self.events:
                event = self.events.popleft()
                data = event["data"]
                if event["event"] == "JOB_STATUS_CHANGE" and data["id"] == job and data["status"] in states:
                    return data["status"]
            self.events.append(self.read())


def connect(path, process, patience=120):
    """A session with a process that has just been started."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return Monitor(path, patience)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Gone from None
            time.sleep(0.02)
