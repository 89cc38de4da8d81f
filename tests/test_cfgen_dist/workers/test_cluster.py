"""Whoever waits for a cluster hears what is waited for."""

import logging
import time

import pytest

from cfgen_dist.training import on_ray
from cfgen_dist.tuning import table
from cfgen_dist.workers import cluster


def test_waiting_is_said_and_said_again(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "SILENCE", 0.05)
    monkeypatch.setattr(cluster, "AGAIN", 0.1)
    with caplog.at_level(logging.INFO, "cfgen_dist"), cluster.waiting_for("the Ray cluster at host:1 to answer"):
        time.sleep(0.5)
    lines = [record.message for record in caplog.records]
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("waiting for the Ray cluster at host:1 to answer, for ") for line in lines)
    time.sleep(0.2)
    assert len(caplog.records) == len(lines), "silent once it has ended"


def test_what_is_quick_is_not_spoken_of(caplog):
    with (
        caplog.at_level(logging.INFO, "cfgen_dist"), pytest.raises(ValueError, match="a failure"),
        cluster.waiting_for("nothing"),
    ):  # fmt: skip
        raise ValueError("a failure")
    assert not caplog.records


def test_ten_seconds_are_the_longest_silence():
    assert cluster.SILENCE < 10
    assert on_ray.SECONDS_OF_SILENCE[0] < 10
    assert table.SECONDS_OF_SILENCE[0] < 10
