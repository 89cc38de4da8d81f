"""Locks that are objects: the bucket decides who has one, and the dead are taken over from."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from buckets import Line

from data_loaders import BadInput, locks
from data_loaders.lock_keepers import BucketLock
from data_loaders.locks import hold, one_at_a_time
from data_loaders.storage import place

HOLD = """
import sys, time
from data_loaders.locks import one_at_a_time
with one_at_a_time(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def out(bucket):
    """An address to work on; its lock is `.out.lock`."""
    return f"{bucket.url}/runs/out"


def lock_of(out):
    """The lock of an address."""
    return BucketLock(place(out).beside(".out.lock"))


def change(out, **facts):
    """Another owner."""
    lock = place(out).beside(".out.lock")
    lock.write(json.dumps(json.loads(lock.read()) | facts).encode())


def test_a_lock_is_there_while_it_is_held(out, bucket):
    with one_at_a_time(out):
        assert bucket.keys("") == ["runs/.out.lock"]
        message = f"{out}: another command is at work on it, process {os.getpid()}"
        with pytest.raises(BadInput, match=message), one_at_a_time(out):
            pass
        with one_at_a_time(f"{out}2"):
            pass
    assert bucket.keys("") == []


@pytest.mark.heavy
def test_after_a_kill_the_next_goes_on_at_once(out, bucket):
    first = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=f"process {first.pid}"), one_at_a_time(out):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with one_at_a_time(out):
        assert json.loads(bucket.read("runs/.out.lock"))["pid"] == os.getpid()
    assert bucket.keys("") == []


def test_another_machine_is_known_by_its_heartbeat_and_the_clock_of_the_bucket(out, bucket, monkeypatch):
    hold(lock_of(out), out)
    change(out, machine="another", host="node7")
    with pytest.raises(BadInput, match=r"on node7 since .*, silent for [01] s of the 180"), one_at_a_time(out):
        pass
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock that is wrong here changes nothing
    with pytest.raises(BadInput, match=r"silent for [0-3] s"), one_at_a_time(out):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(locks, "STALE", -1.0)
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    with one_at_a_time(out):
        assert json.loads(bucket.read("runs/.out.lock"))["pid"] == os.getpid()


def test_an_owner_that_comes_back_has_lost_it(out):
    """Frozen for longer than its lock lives: its signs of life and its end touch nothing of the other's."""
    first, second = lock_of(out), lock_of(out)
    content = hold(first, out)
    found = second.find()
    assert second.put_over(b"second", found.version)
    first.touch()
    first.remove(content.decode())
    assert place(out).beside(".out.lock").read() == b"second"
    assert not first.put_over(content, found.version)


def test_signs_of_life(out, monkeypatch, caplog):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    lock = place(out).beside(".out.lock")
    with one_at_a_time(out):
        before = lock.read_versioned().modified
        wait_for(lambda: lock.read_versioned().modified > before)
        change(out, token="another")
        wait_for(lambda: "another command's by now" in caplog.text)
    assert lock.exists(), "it is not ours any more"


def test_of_many_that_take_over_one_wins_on_a_bad_line(out, bucket, monkeypatch):
    hold(lock_of(out), out)
    change(out, pid=2**22 + 1)  # nobody's
    won, lost = [], []
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        line.fail = line.times("lost", 4, "PUT")

        def compete(number):
            try:
                won.append(json.loads(hold(lock_of(out), out))["token"])
            except BadInput:
                lost.append(number)

        threads = [threading.Thread(target=compete, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(won) == 1
    assert len(lost) == 5
    assert json.loads(place(out).beside(".out.lock").read())["token"] == won[0]


def wait_for(condition):
    """Wait until something is so."""
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError
