"""How long a training stands still for a checkpoint: on a disk, and with a slow bucket behind it.

python benchmarks/checkpoints.py [--megabytes 64] [--rate 5_000_000] [--saves 8] [--every 1.0]

A checkpoint of so many megabytes is saved as a training saves it, so many times, at equal intervals in between. The
bucket is a moto server on this machine behind a line that takes `--rate` bytes a second.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from cfgen_dist.training.checkpoints import WholeCheckpoints
from cfgen_dist.training.saves import Saver, restore
from data_loaders.storage import place

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from buckets import Line, TestBucket, start_server


def pauses(folder: Path, saver: Saver | None, args: argparse.Namespace) -> list[float]:
    """Seconds that each save took."""
    (folder / "flow").mkdir(parents=True)
    files, found = WholeCheckpoints(saver), []
    values = torch.randn(args.megabytes * 250_000)
    for step in range(1, args.saves + 1):
        began = time.perf_counter()
        files.save_checkpoint({"global_step": step, "values": values}, folder / "flow" / "last.ckpt")
        found.append(time.perf_counter() - began)
        time.sleep(args.every)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e6)
    parser.add_argument("--saves", type=int, default=8)
    parser.add_argument("--every", type=float, default=1.0)
    args = parser.parse_args()
    server = start_server()
    bucket = TestBucket("http://{}:{}".format(*server.get_host_and_port()))
    with tempfile.TemporaryDirectory() as scratch, Line(bucket.endpoint, upload_rate=args.rate) as line:
        os.environ |= bucket.environ | {"AWS_ENDPOINT_URL": line.url}
        disk = pauses(Path(scratch) / "disk", None, args)
        remote = place(f"{bucket.url}/run")
        saver = Saver(Path(scratch) / "bucket", remote)
        slow = pauses(Path(scratch) / "bucket", saver, args)
        began = time.perf_counter()
        saver.wait()
        rest = time.perf_counter() - began
        last = restore(remote / "flow", Path(scratch) / "copy")
    for name, found in (("disk", disk), ("bucket", slow)):
        print(f"{name}: median {statistics.median(found):.2f} s, longest {max(found):.2f} s")
    print(f"{rest:.1f} s after the last save it was in the bucket: step {last}")
    server.stop()


if __name__ == "__main__":
    main()
