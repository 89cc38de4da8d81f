"""Lines that fail: what is read and written is whole, or an error of one line."""

import threading
from datetime import timedelta

import pytest
from buckets import Line

from data_loaders import BadInput
from data_loaders.storage import opened, place


@pytest.fixture
def line(bucket, monkeypatch):
    """A faulty line to the bucket."""
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        yield line


@pytest.mark.parametrize("what", ["500", "503", "cut", "lost", "refuse", 0.3])
def test_a_few_faults_are_overcome(bucket, line, tmp_path, what):
    root, content = place(bucket.url), bytes(range(256)) * 100
    line.fail = line.times(what, 2)
    (root / "a").write(content)
    line.fail = line.times(what, 2)
    assert (root / "a").read() == content
    line.fail = line.times(what, 2)
    assert root.files() == ["a"]
    (tmp_path / "big").write_bytes(content * 500)
    line.fail = line.times(what, 3)
    (root / "big").upload(tmp_path / "big")
    line.fail = line.times(what, 3)
    assert (root / "big").download(tmp_path / "copy").read_bytes() == content * 500


def test_a_listing_that_is_cut_is_asked_for_again(bucket, line):
    names = [f"{number:03d}" for number in range(50)]
    for name in names:
        bucket.put(f"folder/{name}", b"x")
    folder = place(f"{bucket.url}/folder")
    for look in (folder.files, folder.names):
        line.fail = line.times("cut", 3)
        assert look() == names
    line.fail = line.times("cut", 3)
    assert folder.is_folder()


@pytest.mark.parametrize("what", ["500", "cut", "lost", "refuse"])
def test_a_condition_holds_although_answers_are_lost(bucket, line, what):
    file = place(bucket.url) / "lock"
    line.fail = line.times(what, 2, "PUT")
    assert file.write_new(b"mine"), "the put came through, or was done again"
    assert not file.write_new(b"mine")
    version = file.read_versioned().version
    line.fail = line.times(what, 2, "PUT")
    assert file.replace(b"two", version)
    assert not file.replace(b"three", version)
    assert file.read() == b"two"


def test_of_many_at_once_one_wins_on_a_bad_line(bucket, line):
    file, won = place(bucket.url) / "lock", []
    line.fail = line.times("lost", 5, "PUT")

    def compete(i):
        if file.write_new(str(i).encode()):
            won.append(i)

    threads = [threading.Thread(target=compete, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert file.read() == str(won[0]).encode()


def test_a_line_that_stays_dead_is_one_line(bucket, line, monkeypatch):
    monkeypatch.setattr(opened, "RETRY", opened.RETRY | {"max_retries": 1, "retry_timeout": timedelta(seconds=1)})
    monkeypatch.setattr("data_loaders.storage.bucket.TRIES", 2)
    opened._open.cache_clear()
    line.fail = lambda _: "500"
    file = place(bucket.url) / "a"
    for act in (file.read, lambda: file.write(b""), lambda: file.write_new(b""), file.names, file.remove):
        with pytest.raises(BadInput, match=rf"{bucket.url}/a: cannot be (read|written|listed|removed)") as error:
            act()
        assert "\n" not in str(error.value)
    opened._open.cache_clear()
