"""A head and three machines that share nothing but a network, on one Linux machine: they come, go, and are cut off.

    python benchmarks/machines.py [--out OUT] [--json FILE]        as root

Each machine is a network namespace with an address of its own, a link of 1 Gbit/s (`tc tbf`) to a bridge, its own
/tmp and host name. One Ray runs over them, one machine started after another, with one token in a file. A model trains
there with `--workers 1:3` (gloo) while a machine is killed, a late one comes, and a link is cut for 20 seconds; then
cells are generated and evaluated. OUT is a folder that all machines see (one is made), or an address of a bucket that
they reach, whose settings are in the environment. The record of the cells that each step saw, and the token, go through
a common folder in any case.
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from common import base_parser, report
from elastic import BETWEEN, SETTINGS, rows, starts_of
from recorded_training import cells_of_epochs, train_recorded

from data_loaders import open_atlas

NET, PORT = "10.77.0", 6379
CUT, GIBIT = 20, "1gbit"
TAG = f"c{os.getpid() % 100_000}"  # in the names of all links and namespaces
FEW = SETTINGS | {"autoencoder.max_epochs": 12, "flow.max_steps": 60, "checkpoint_every_n_steps": 20}


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--out", help="folder or address of what is made; a folder by default")
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root")
    figures = []
    common = Path(tempfile.mkdtemp(prefix="machines-", dir="/var/tmp"))
    network = Network(common)
    try:
        for row in drill(network, common, args.out or str(common / "out")):
            print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
            figures.append(row)
    finally:
        network.close()
        shutil.rmtree(common, ignore_errors=True)
    report(args, {"events": figures})


def drill(network, common, out):
    """One dict for each event and each command."""
    atlas = f"{out}/atlas.zarr"
    if "://" not in out:
        Path(out).mkdir(exist_ok=True)
    if "://" in out or not Path(atlas).exists():
        command("simulate", atlas, "--cells", "8000", "--genes", "300", "--types", "4", "--donors", "2",
                "--density", "0.2", "--seed", "0")  # fmt: skip
    head = network.start(0, cpus=0)
    for number in (1, 2):
        network.start(number)
    given = {"atlas": atlas, "out": f"{out}/run", "folder": str(common), "settings": FEW, "workers": "1:3",
             "ray_at": head, "grow_after": 5.0}  # fmt: skip
    driver = network.run(0, sys.executable, train_recorded.__code__.co_filename, json.dumps(given))
    events = [
        ("a machine is killed", lambda: network.kill(2)),
        ("a late machine comes", lambda: network.start(3)),
        (f"a link is cut for {CUT} s", lambda: network.cut(1, CUT)),
    ]
    when = []
    for n, (_, act) in enumerate(events):
        wait_for_steps(common, n, driver)
        when.append(time.time())
        act()
    if driver.wait() != 0:
        raise SystemExit(f"the training ended with {driver.returncode}")
    yield from rows(common, [name for name, _ in events], when)
    if len(starts_of(common)) == len(events):
        yield {"event": events[-1][0], "outcome": "the training waited, no new start"}
    expected = open_atlas(atlas).rows(split="train").tolist()
    seen = cells_of_epochs(common)
    exact = all(sorted(seen[0, epoch]) == expected for epoch in range(FEW["autoencoder.max_epochs"]))
    yield {"event": "train", "outcome": "cells of every epoch exact" if exact else "CELLS WRONG"}

    made = {}
    for place, name in ((["--ray", head], "there"), ([], "here")):
        began = time.time()
        words = ["generate", f"{out}/run", f"{out}/{name}.zarr", "--cells", "20000", "--seed", "3", *place]
        said = network.command(0, *words) if place else command(*words)
        made[name] = next(line.split()[-1] for line in said.splitlines() if "SHA-256" in line)
        yield {"event": f"generate {name}", "outcome": made[name][:16], "seconds": round(time.time() - began)}
    yield {"event": "generate", "outcome": "same bytes" if made["there"] == made["here"] else "OTHER BYTES"}
    found = {}
    for place, name in ((["--ray", head], "there"), ([], "here")):
        words = ["evaluate", atlas, f"{out}/there.zarr", "--out", f"{common}/report-{name}", *place]
        _ = network.command(0, *words) if place else command(*words)
        found[name] = hashlib.sha256((common / f"report-{name}" / "metrics.json").read_bytes()).hexdigest()
    same = found["there"] == found["here"]
    yield {"event": "evaluate", "outcome": "same figures" if same else "OTHER FIGURES"}


def command(*words):
    """A command on this machine; returns what it says."""
    done = subprocess.run([sys.executable, "-m", "cfgen_dist", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-800:]}")
    return done.stdout


def wait_for_steps(folder, n, driver):
    """Return when the start after n events has done some steps."""
    while True:
        lines = starts_of(folder)
        if len(lines) > n and len({line["step"] for line in lines[n]}) >= BETWEEN:
            return
        if driver.poll() is not None:
            raise SystemExit(f"the training ended before event {n + 1}")
        time.sleep(0.3)


class Network:
    """A bridge in this machine, and machines that hang on it."""

    def __init__(self, common):
        self.common, self.started, self.spaces = common, {}, []
        self.token = common / "token"
        self.token.touch(0o600)
        self.token.write_text(secrets.token_hex(32))
        self.environment = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_TOKEN"} | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0", "RAY_memory_monitor_refresh_ms": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        ip("link", "add", f"b{TAG}", "type", "bridge")
        ip("addr", "add", f"{NET}.1/24", "dev", f"b{TAG}")
        ip("link", "set", f"b{TAG}", "up")

    def start(self, number, cpus=1):
        """Start a machine and Ray on it; returns the address of its Ray."""
        space, outer = f"m{number}{TAG}", f"v{number}{TAG}"
        ip("netns", "add", space)
        self.spaces.append(space)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", outer, "master", f"b{TAG}", "up")
        ip("-n", space, "addr", "add", f"{NET}.{10 + number}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", space, "link", "set", link, "up")
        subprocess.run(["tc", "qdisc", "add", "dev", outer, "root", "tbf", "rate", GIBIT, "burst", "1mb",
                        "latency", "50ms"], check=True)  # fmt: skip
        address, mine = f"{NET}.10:{PORT}", f"{NET}.{10 + number}"
        words = ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 0 else [f"--address={address}"]
        words += [f"--node-ip-address={mine}", f"--num-cpus={cpus}", f"--object-store-memory={100 << 20}"]
        ray = f"{Path(sys.executable).parent}/ray start --block --disable-usage-stats {' '.join(words)}"
        inside = f"mount -t tmpfs -o size=1g tmpfs /tmp && hostname m{number} && exec {ray}"
        log = open(self.common / f"m{number}.log", "w")  # noqa: SIM115
        self.started[number] = subprocess.Popen(
            ["ip", "netns", "exec", space, "unshare", "--mount", "--uts", "sh", "-c", inside],
            env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._wait_for(number)
        return address

    def _wait_for(self, number):
        """Return when the machine says that its Ray runs: of two that are started together one may hang."""
        log, deadline = self.common / f"m{number}.log", time.time() + 180
        while "Ray runtime started" not in log.read_text():
            if self.started[number].poll() is not None or time.time() > deadline:
                raise SystemExit(f"machine {number} did not start: {log.read_text()[-800:]}")
            time.sleep(0.3)

    def run(self, number, *words):
        """Start a program on a machine."""
        target = str(self.started[number].pid)
        inside = ["nsenter", "--target", target, "--mount", "--net", "--uts", f"--wd={self.common}", *words]
        return subprocess.Popen(inside, env=self.environment, start_new_session=True)

    def command(self, number, *words):
        """A command on a machine, to its end; returns what it says."""
        target = str(self.started[number].pid)
        inside = ["nsenter", "--target", target, "--mount", "--net", "--uts", f"--wd={self.common}"]
        done = subprocess.run([*inside, sys.executable, "-m", "cfgen_dist", *words], env=self.environment,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{words[0]} ended with {done.returncode}")
        return done.stdout

    def kill(self, number):
        """The machine is gone at once: its link first, then all that runs there."""
        ip("link", "set", f"v{number}{TAG}", "down")
        for pid in pids_of(f"m{number}{TAG}"):
            os.kill(pid, signal.SIGKILL)

    def cut(self, number, seconds):
        """Take the link of a machine down for a while."""
        ip("link", "set", f"v{number}{TAG}", "down")
        time.sleep(seconds)
        ip("link", "set", f"v{number}{TAG}", "up")

    def close(self):
        """End all that was started here, and take the network away."""
        for space in self.spaces:
            for pid in pids_of(space):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for process in self.started.values():
            process.wait()
        for space in self.spaces:
            ip("netns", "delete", space)
        ip("link", "delete", f"b{TAG}")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def pids_of(space):
    """Processes of a network namespace."""
    found = subprocess.run(["ip", "netns", "pids", space], check=True, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


if __name__ == "__main__":
    main()
