"""How much of a slow line to a bucket a stream uses: bytes a second of an epoch, against those that the line can carry.

    python benchmarks/bucket.py --work DIR [--cells N] [--genes N] [--latency 0.05] [--gbit 1] [--step MS] [--json FILE]

A simulated atlas is written to DIR once. A server of its own process answers what S3 answers to GET, HEAD and listing,
from the files of DIR, each answer after a latency and all answers together at a rate: a tiny one, since moto's, which
is for tests, is slower than the line. A stream shows one epoch over it, the consumer taking --step milliseconds for a
batch, in a process that reads with the defaults. The first batch, before which nothing could be read ahead, is told
apart: what counts is the time from the first batch to the last.
"""

import json
import multiprocessing
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from common import base_parser, report

BATCH = 4096
PIECE = 1 << 16  # bytes sent at once


class Handler(BaseHTTPRequestHandler):
    """GET, HEAD and ListObjectsV2 of the files under a folder, as the bucket `data`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def do_GET(self):
        """Answer after the latency, at the rate."""
        line = self.server.line
        place = urlsplit(self.path)
        key = unquote(place.path).removeprefix("/data").lstrip("/")
        time.sleep(line.latency)
        line.requests += 1
        if not key:
            self.send_list(parse_qs(place.query))
            return
        path = line.root / key
        if not path.is_file():
            self.send_answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        size = path.stat().st_size
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, size
        if span:
            start = int(span[1]) if span[1] else max(size - int(span[2]), 0)
            stop = min(int(span[2]) + 1, size) if span[1] and span[2] else size
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            with open(path, "rb") as file:
                file.seek(start)
                while start < stop:
                    piece = file.read(min(PIECE, stop - start))
                    line.wait(len(piece))
                    self.wfile.write(piece)
                    start += len(piece)

    do_HEAD = do_GET

    def send_list(self, query):
        """What is under a prefix, all at once."""
        prefix, delimiter = (query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        files = (path for path in (self.server.line.root / prefix).rglob("*") if path.is_file())
        keys = sorted(path.relative_to(self.server.line.root).as_posix() for path in files)
        folders = {prefix + key[len(prefix) :].split("/")[0] + "/" for key in keys if "/" in key[len(prefix) :]}
        shown = [key for key in keys if not delimiter or "/" not in key[len(prefix) :]]
        parts = [
            f"<Contents><Key>{escape(key)}</Key><Size>{(self.server.line.root / key).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            for key in shown
        ]
        parts += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(parts)}"
        self.send_answer(200, f"{body}</ListBucketResult>".encode())

    def send_answer(self, code, body):
        """A short answer."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


class Line:
    """Latency of each answer, and bytes a second of all."""

    def __init__(self, root, latency, rate):
        self.root, self.latency, self.rate = Path(root), latency, rate
        self.free, self.lock, self.requests, self.passed = 0.0, threading.Lock(), 0, 0

    def wait(self, n):
        """Wait until n more bytes have passed."""
        with self.lock:
            self.passed += n
            now = time.monotonic()
            self.free = max(self.free, now - 0.01) + n / self.rate
            wait = self.free - now
        if wait > 0.001:
            time.sleep(wait)


class Server(socketserver.ThreadingTCPServer):
    """A thread a connection."""

    daemon_threads = allow_reuse_address = True
    request_queue_size = 512


def serve(root, latency, rate, pipe):
    """Serve until told to stop; the pipe gets the port, and on every word the bytes and requests so far."""
    server = Server(("127.0.0.1", 0), Handler)
    server.line = Line(root, latency, rate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_address[1])
    while pipe.recv() != "end":
        pipe.send((server.line.passed, server.line.requests))


def show(url, step):
    """Show one epoch; prints when the first batch came, when the last, and what was shown, as JSON lines."""
    import resource

    from data_loaders import CellStream, open_atlas

    began = time.monotonic()
    stream = CellStream(open_atlas(url), BATCH, labels=["cell_type"])
    cells = 0
    for number, batch in enumerate(stream):
        cells += len(batch)
        if number == 0:
            print(json.dumps({"first_s": time.monotonic() - began}), flush=True)
        time.sleep(step)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cells": cells, "peak_gb": peak / 1e9, "cpu_s": cpu.ru_utime + cpu.ru_stime}), flush=True)


def measure(args, latency, rate):
    """Figures of one epoch."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(args.work, latency, rate, there))
    process.start()
    environ = os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}", "AWS_SKIP_SIGNATURE": "true"}
    command = [sys.executable, __file__, "--work", args.work, "--show", f"s3://data/{args.name}"]
    with subprocess.Popen(
        [*command, "--step", str(args.step)], env=environ, stdout=subprocess.PIPE, text=True
    ) as reader:
        figures = json.loads(reader.stdout.readline())
        began = time.monotonic()
        here.send("first")
        before, _ = here.recv()
        figures |= json.loads(reader.stdout.readline())
        took = time.monotonic() - began
    here.send("last")
    passed, requests = here.recv()
    here.send("end")
    process.join()
    return figures | {
        "seconds": took, "megabytes": (passed - before) / 1e6, "requests": requests,
        "share": (passed - before) / took / rate,
    }  # fmt: skip


def main():
    """Make the atlas, measure, print."""
    parser = base_parser(__doc__)
    parser.add_argument("--work", required=True, metavar="DIR")
    parser.add_argument("--cells", type=int, default=300_000)
    parser.add_argument("--genes", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--gbit", type=float, default=1.0, help="gigabits a second of the line")
    parser.add_argument("--step", type=float, default=0.0, help="milliseconds that the consumer takes for a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--show", help="(the process that reads)")
    args = parser.parse_args()
    if args.show:
        show(args.show, args.step / 1e3)
        return
    if args.quick:
        args.cells, args.genes, args.rounds = 50_000, 2_000, 1
    args.name = f"atlas-{args.cells}-{args.genes}.zarr"
    store = Path(args.work) / args.name
    if not store.exists():
        from data_loaders import simulate

        simulate(store, cells=args.cells, genes=args.genes)
    rounds = []
    for _ in range(args.rounds):
        found = measure(args, args.latency, args.gbit * 1e9 / 8)
        rounds.append(found)
        print(
            f"{found['share']:.0%} of {args.gbit:g} Gb/s with {args.latency * 1e3:g} ms: {found['megabytes']:,.0f} MB "
            f"in {found['seconds']:.2f} s behind the first batch ({found['first_s']:.2f} s), {found['requests']:,} "
            f"requests, {found['cpu_s']:.1f} s of CPU, {found['peak_gb']:.2f} GB",
            flush=True,
        )
    report(args, {"rounds": rounds})


if __name__ == "__main__":
    main()
