"""VNC inside of TLS with Python's own TLS: peer_vnc_tls.py MONITOR PORT WEBSOCKET DIRECTORY.

With `sasl MONITOR PORT DIRECTORY` clients prove who they are in there, to a server that knows `ann` and her `secret`.

DIRECTORY has certificates, made by this script when it is called with `make DIRECTORY`. A client with a certificate gets in
by VeNCrypt and by a WebSocket inside of TLS; one without does not.
"""
import asyncio
import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import subprocess
import sys

from qemu.qmp import QMPClient


def make(directory):
    """An authority, and certificates of a server and a client."""
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, cwd=directory, stderr=subprocess.DEVNULL)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", "2",
            "-subj", "/CN=Ouzel test CA")
    for name, subject, extensions in (
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "/O=Ouzel/CN=client", "extendedKeyUsage=clientAuth"),
    ):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", subject)
        with open(os.path.join(directory, "extensions"), "w", encoding="ascii") as file:
            file.write(f"basicConstraints=CA:FALSE\n{extensions}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                "-days", "2", "-extfile", "extensions", "-out", f"{name}-cert.pem")


def context(directory, has_certificate):
    made = ssl.create_default_context(cafile=os.path.join(directory, "ca-cert.pem"))
    if has_certificate:
        made.load_cert_chain(os.path.join(directory, "client-cert.pem"), os.path.join(directory, "client-key.pem"))
    return made


def take(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def initialize(stream):
    stream.sendall(b"\1")
    width, height = struct.unpack(">HH", take(stream, 4))
    take(stream, 16)
    name = take(stream, struct.unpack(">I", take(stream, 4))[0])
    assert width and height and name == b"QEMU", (width, height, name)


def vencrypt(port, directory, has_certificate, kind=260, prove=lambda stream: None):
    stream = socket.create_connection(("127.0.0.1", port), 30)
    assert take(stream, 12) == b"RFB 003.008\n"
    stream.sendall(b"RFB 003.008\n")
    assert take(stream, 2) == b"\1\x13"
    stream.sendall(b"\x13")
    assert take(stream, 2) == b"\0\2"
    stream.sendall(b"\0\2")
    assert take(stream, 6) == b"\0\1" + struct.pack(">I", kind)
    stream.sendall(struct.pack(">I", kind))
    assert take(stream, 1) == b"\1"
    stream = context(directory, has_certificate).wrap_socket(stream, server_hostname="localhost")
    prove(stream)
    assert take(stream, 4) == b"\0\0\0\0"
    initialize(stream)
    return stream


def say(stream, text):
    stream.sendall(struct.pack(">I", len(text) + 1) + text + b"\0")


def hear(stream):
    """What the server says, and whether that was all."""
    (length,) = struct.unpack(">I", take(stream, 4))
    text = take(stream, length)[:-1] if length else None
    return text, take(stream, 1) == b"\1"


def choose(stream, mechanism):
    offered = take(stream, struct.unpack(">I", take(stream, 4))[0])
    assert offered == b"SCRAM-SHA-256,PLAIN", offered
    stream.sendall(struct.pack(">I", len(mechanism)) + mechanism)


def plain(password):
    def prove(stream):
        choose(stream, b"PLAIN")
        say(stream, b"\0ann\0" + password)
        assert hear(stream) == (None, True)
    return prove


def scram(password):
    """RFC 5802, by Python's own hashes."""
    def prove(stream):
        choose(stream, b"SCRAM-SHA-256")
        bare = b"n=ann,r=" + base64.b64encode(os.urandom(18))
        say(stream, b"n,," + bare)
        challenge, is_complete = hear(stream)
        assert not is_complete
        fields = dict(field.split(b"=", 1) for field in challenge.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(fields[b"s"]), int(fields[b"i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        last = b"c=biws,r=" + fields[b"r"]
        said = b",".join((bare, challenge, last))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        proof = bytes(one ^ other for one, other in zip(client_key, signature))
        say(stream, last + b",p=" + base64.b64encode(proof))
        answer, is_complete = hear(stream)
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        assert is_complete and answer == b"v=" + base64.b64encode(hmac.digest(server_key, said, "sha256")), answer
    return prove


async def sasl(monitor, port, directory):
    client = QMPClient("sasl")
    await client.connect(monitor)
    for kind in (plain, scram):
        stream = vencrypt(int(port), directory, True, 263, kind(b"secret"))
        seen = await client.execute("query-vnc")
        assert seen["auth"] == "vencrypt+x509+sasl" and seen["clients"][0]["sasl_username"] == "ann", seen
        servers = (await client.execute("query-vnc-servers"))[0]
        assert (servers["auth"], servers["vencrypt"]) == ("vencrypt", "x509-sasl"), servers
        stream.close()
        try:
            vencrypt(int(port), directory, True, 263, kind(b"wrong"))
            raise AssertionError("a wrong password was taken")
        except (ssl.SSLError, EOFError, ConnectionError):
            pass
    print("ok")


class Frames:
    """RFB in WebSocket frames."""

    def __init__(self, stream):
        self.stream, self.data = stream, b""
        key = base64.b64encode(os.urandom(16)).decode()
        stream.sendall((f"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\r\n").encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += take(stream, 1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def sendall(self, data):
        self.stream.sendall(bytes([0x82, 0x80 | len(data), 0, 0, 0, 0]) + data)

    def recv(self, count):
        while not self.data:
            first, length = take(self.stream, 2)
            assert first == 0x82
            if length == 126:
                (length,) = struct.unpack(">H", take(self.stream, 2))
            self.data = take(self.stream, length)
        data, self.data = self.data[:count], self.data[count:]
        return data


async def main(monitor, port, websocket, directory):
    client = QMPClient("tls")
    await client.connect(monitor)
    port, websocket = int(port), int(websocket)
    stream = vencrypt(port, directory, True)
    seen = await client.execute("query-vnc")
    assert seen["auth"] == "vencrypt+x509+none" and seen["clients"][0]["x509_dname"] == "O=Ouzel,CN=client", seen
    servers = (await client.execute("query-vnc-servers"))[0]
    assert servers["vencrypt"] == "x509-none" and servers["server"][0] == {
        "host": "127.0.0.1", "service": str(websocket), "family": "ipv4", "websocket": True, "auth": "none"}, servers
    stream.close()
    try:
        vencrypt(port, directory, False)
        raise AssertionError("a client without a certificate got in")
    except (ssl.SSLError, EOFError, ConnectionError):
        pass
    await client.execute("display-reload", {"type": "vnc", "tls-certs": True})
    stream = socket.create_connection(("127.0.0.1", websocket), 30)
    frames = Frames(context(directory, True).wrap_socket(stream, server_hostname="localhost"))
    assert take(frames, 12) == b"RFB 003.008\n"
    frames.sendall(b"RFB 003.008\n")
    assert take(frames, 2) == b"\1\1"
    frames.sendall(b"\1")
    assert take(frames, 4) == b"\0\0\0\0"
    initialize(frames)
    plain = socket.create_connection(("127.0.0.1", websocket), 30)
    plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    try:
        assert not plain.recv(100).startswith(b"HTTP")
    except ConnectionError:
        pass
    print("ok")


if sys.argv[1] == "make":
    make(sys.argv[2])
elif sys.argv[1] == "sasl":
    asyncio.run(asyncio.wait_for(sasl(*sys.argv[2:]), 100))
else:
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 100))
