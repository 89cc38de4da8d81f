"""One command at a time on one output: who lives keeps it, and the dead are taken over from."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_loaders import BadInput, locks, simulate
from data_loaders.lock_keepers import FileLock
from data_loaders.locks import alone, one_at_a_time

HOLD = """
import sys, time
from data_loaders.locks import one_at_a_time
with one_at_a_time(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".out.lock"


def hold(out):
    """A process that holds the lock of `out`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def change(lock, **facts):
    lock.write_text(json.dumps(json.loads(lock.read_text()) | facts))


def test_a_lock_is_there_while_it_is_held(tmp_path, lock):
    with one_at_a_time(tmp_path / "out"):
        about = json.loads(lock.read_text())
        assert about["pid"] == os.getpid()
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), one_at_a_time(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir()), "Ctrl-C lets go of it"


def test_the_second_is_refused_while_the_first_lives(tmp_path, lock):
    first = hold(tmp_path / "out")
    message = rf"^{tmp_path}/out: another command is at work on it, process {first.pid} on \S+ since 20.* UTC; wait"
    try:
        with pytest.raises(BadInput, match=message), one_at_a_time(tmp_path / "out"):
            pass
        with one_at_a_time(tmp_path / "other"):
            pass
    finally:
        first.kill()
        first.wait()
    assert lock.exists()
    with one_at_a_time(tmp_path / "out"):
        assert json.loads(lock.read_text())["pid"] == os.getpid(), "after kill -9 the next one goes on at once"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_lets_go(tmp_path, lock):
    first = hold(tmp_path / "out")
    first.send_signal(signal.SIGINT)
    first.wait(10)
    assert not lock.exists()


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path, lock):
    with one_at_a_time(tmp_path / "out"):
        text = lock.read_text()
    lock.write_text(text)
    with pytest.raises(BadInput, match=f"process {os.getpid()}"), one_at_a_time(tmp_path / "out"):
        pass
    change(lock, started="1")
    with one_at_a_time(tmp_path / "out"):
        pass


def test_another_machine_is_known_by_its_heartbeat(tmp_path, lock):
    with one_at_a_time(tmp_path / "out"):
        text = lock.read_text()
    lock.write_text(text)
    change(lock, machine="another", host="node7")
    with (
        pytest.raises(BadInput, match=r"on node7 since .*, silent for \d+ s of the 180"),
        one_at_a_time(tmp_path / "out"),
    ):
        pass
    os.utime(lock, (time.time() - 60, time.time() - 60))
    with pytest.raises(BadInput, match="silent for 6"), one_at_a_time(tmp_path / "out"):
        pass
    os.utime(lock, (time.time() - 200, time.time() - 200))
    with one_at_a_time(tmp_path / "out"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": -1}', b"\xff", b"[" * 9000])
def test_locks_that_cannot_be_read(tmp_path, lock, content):
    lock.write_bytes(content)
    with pytest.raises(BadInput, match="whose lock cannot be read"), one_at_a_time(tmp_path / "out"):
        pass
    os.utime(lock, (1, 1))
    with one_at_a_time(tmp_path / "out"):
        pass


def test_signs_of_life(tmp_path, lock, monkeypatch, caplog):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    with one_at_a_time(tmp_path / "out"):
        os.utime(lock, (1, 1))
        wait_for(lambda: lock.stat().st_mtime > 1e9)
        text = lock.read_text()
        change(lock, token="another")
        wait_for(lambda: "another command's by now" in caplog.text)
    assert lock.exists(), "it is not ours any more"
    assert text != lock.read_text()


def wait_for(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError


def test_only_one_of_many_takes_a_dead_lock_over(tmp_path, lock):
    with one_at_a_time(tmp_path / "out"):
        text = lock.read_text()
    lock.write_text(text)
    change(lock, started="1", token="dead")
    together, won, inside, lost = threading.Barrier(8), [], threading.Event(), []

    def take():
        together.wait()
        try:
            with one_at_a_time(tmp_path / "out"):
                won.append(1)
                inside.wait(10)
        except BadInput:
            lost.append(1)
            if len(lost) == 7:
                inside.set()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert not list(tmp_path.iterdir())


def test_a_takeover_that_died_half_way(tmp_path):
    place = FileLock(tmp_path / "lock")
    assert place.put_new(b"old")
    assert not place.put_new(b"new")
    (tmp_path / "lock.takeover").write_text("")
    assert not place.put_over(b"new", "old"), "somebody is at it"
    os.utime(tmp_path / "lock.takeover", (1, 1))
    assert not place.put_over(b"new", "older"), "it is another lock by now"
    assert place.put_over(b"new", "old")
    place.remove("old")
    assert (tmp_path / "lock").read_bytes() == b"new"
    place.remove("new")
    assert not list(tmp_path.iterdir())


def test_disks_without_hard_links(tmp_path, lock, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with (
        one_at_a_time(tmp_path / "out"),
        pytest.raises(BadInput, match="another command"),
        one_at_a_time(tmp_path / "out"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_that_were_made_for_nothing_go(tmp_path):
    with one_at_a_time(tmp_path / "a" / "b" / "out", make_folder=True):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())


def test_functions_hold_the_lock_of_their_output(tmp_path, lock):
    @alone()
    def make(out, what=1):
        return None if out is None else lock.exists()

    assert make(tmp_path / "out") is True
    assert make(str(tmp_path / "out"), what=2) is True
    assert make(None) is None
    with pytest.raises(TypeError):
        make()
    with one_at_a_time(tmp_path / "out"), pytest.raises(BadInput, match="another command is at work on it"):
        simulate(tmp_path / "out", cells=10, genes=5)
    assert Path(make.__wrapped__.__code__.co_filename).name == "test_locks.py"
