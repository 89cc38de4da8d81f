"""A bucket on this machine, and a faulty line to it."""

import contextlib
import itertools
import os
import socket
import threading
import time

import boto3
import moto.server

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_numbers = itertools.count()


def start_server():
    """A moto server in this process; its log is silent."""
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server


class TestBucket:
    """A fresh bucket.

    Attributes
    ----------
    url : str
        `s3://NAME`, to which a slash and a key are added.
    endpoint : str
        Of the server.
    client : boto3 client
        That sees the bucket from outside.
    environ : dict
        What a process needs in its environment to reach it.
    """

    __test__ = False

    def __init__(self, endpoint):
        self.endpoint, self.name = endpoint, f"bucket-{os.getpid()}-{next(_numbers)}"
        self.url, self.environ = f"s3://{self.name}", KEYS | {"AWS_ENDPOINT_URL": endpoint}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=endpoint, **keys)
        self.client.create_bucket(Bucket=self.name)

    def keys(self, prefix=""):
        """All keys."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def read(self, key):
        """The bytes of an object."""
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key, content):
        """Put an object there."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def put_folder(self, key, folder):
        """Put all files of a folder there."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(folder).as_posix()}", file.read_bytes())


class Line:
    """A proxy of HTTP in front of a server, that delays, limits, fails and cuts.

    One request after the other passes on a connection, so each can be failed alone. All attributes may be changed at
    any time.

    Parameters
    ----------
    target : str
        As `http://127.0.0.1:5000`.
    latency : float
        Seconds before each answer begins.
    rate : float
        Bytes a second of all answers together; none: as fast as it goes.
    upload_rate : float
        The same of all requests.

    Attributes
    ----------
    fail : callable
        Called with the first line of each request, as `PUT /bucket/key HTTP/1.1`; what it gives is done: None for
        nothing, `"500"` or `"503"` for that answer in place of the server's, `"cut"` to close the connection in the
        middle of the answer, `"lost"` to pass the request on and close before the answer, `"refuse"` to close at
        once, or a number of seconds to wait.
    requests : list of str
        First lines of all requests.
    """

    def __init__(self, target, latency=0.0, rate=None, upload_rate=None):
        host, port = target.removeprefix("http://").split(":")
        self.target, self.latency = (host, int(port)), latency
        self.down, self.up = Rate(rate), Rate(upload_rate)
        self.fail, self.requests, self.active, self.most_active = (lambda _: None), [], 0, 0
        self._lock, self._open = threading.Lock(), True
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def times(self, what, number, contains=""):
        """A `fail` that does something to the first `number` requests whose first line contains a text."""
        left = itertools.repeat(None, number)

        def fail(line):
            if contains in line:
                with self._lock:
                    if next(left, self) is None:
                        return what
            return None

        return fail

    def close(self):
        """Take no more connections."""
        self._open = False
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while self._open:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), client, socket.create_connection(self.target) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            requests, answers = Reader(client), Reader(server)
            while (head := requests.head()) is not None:
                if not self._pass(client, server, head, requests, answers):
                    return

    def _pass(self, client, server, head, requests, answers):
        """Pass one request and its answer; whether the connection goes on."""
        line = head.split(b"\r\n", 1)[0].decode("latin-1")
        self.requests.append(line)
        what, is_head = self.fail(line), line.startswith("HEAD")
        if what == "refuse":
            return False
        if isinstance(what, int | float):
            time.sleep(what)
        expects = b"expect: 100-continue" in head.lower()
        if expects:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(part for part in head.split(b"\r\n") if not part.lower().startswith(b"expect:"))
        failed = what in ("500", "503")
        if not failed:
            server.sendall(head)
        for piece in requests.body(head, False):
            self.up.wait(len(piece))
            if not failed:
                server.sendall(piece)
        if failed:
            reason = "Internal Server Error" if what == "500" else "Slow Down"
            client.sendall(f"HTTP/1.1 {what} {reason}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        answer = answers.head()
        if answer is None or what == "lost":
            return False
        with self._lock:
            self.active += 1
            self.most_active = max(self.active, self.most_active)
        try:
            if self.latency:
                time.sleep(self.latency)
            client.sendall(answer)
            if what == "cut":
                client.sendall(next(iter(answers.body(answer, is_head)), b"")[:500])
                return False
            for piece in answers.body(answer, is_head):
                self.down.wait(len(piece))
                client.sendall(piece)
        finally:
            with self._lock:
                self.active -= 1
        return b"connection: close" not in answer.lower() and answer.startswith(b"HTTP/1.1")


class Rate:
    """Bytes a second, shared by all who wait."""

    def __init__(self, rate):
        self.rate, self.free, self.lock = rate, 0.0, threading.Lock()
        self.passed = 0

    def wait(self, n):
        """Wait until `n` bytes have passed."""
        with self.lock:
            self.passed += n
            if not self.rate:
                return
            now = time.monotonic()
            self.free = max(self.free, now - 0.005) + n / self.rate
            wait = self.free - now
        if wait > 0:
            time.sleep(wait)


class Reader:
    """Messages of HTTP/1.1 from a socket."""

    def __init__(self, source):
        self.source, self.left = source, b""

    def head(self):
        """First line and headers with the empty line behind them; None at the end."""
        while b"\r\n\r\n" not in self.left:
            piece = self.source.recv(1 << 16)
            if not piece:
                return None
            self.left += piece
        head, _, self.left = self.left.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def body(self, head, is_empty):
        """The pieces of a body, as its headers say how long it is."""
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (part.partition(b":") for part in head.split(b"\r\n")[1:])
        }
        status = head.split(b" ", 2)[1]
        if is_empty or status in (b"204", b"304"):
            return
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            while True:
                size = yield from self._line()
                yield from self._exactly(int(size.split(b";")[0], 16) + 2)
                if int(size.split(b";")[0], 16) == 0:
                    return
        if head.startswith(b"HTTP/1.0") and b"content-length" not in fields:
            yield self.left
            while piece := self.source.recv(1 << 18):
                yield piece
            return
        yield from self._exactly(int(fields.get(b"content-length", b"0")))

    def _line(self):
        while b"\r\n" not in self.left:
            self.left += self._more()
        line, _, self.left = self.left.partition(b"\r\n")
        yield line + b"\r\n"
        return line

    def _exactly(self, n):
        while n > 0:
            if not self.left:
                self.left = self._more()
            piece, self.left = self.left[:n], self.left[n:]
            n -= len(piece)
            yield piece

    def _more(self):
        piece = self.source.recv(1 << 18)
        if not piece:
            raise OSError("closed")
        return piece
