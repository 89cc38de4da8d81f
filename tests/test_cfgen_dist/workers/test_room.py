"""How many workers are asked for, on which machines: what can be said, and what is refused."""

import pytest

from cfgen_dist.cli import main
from cfgen_dist.workers.room import count_room, read_labels, read_range
from data_loaders.errors import BadInput


@pytest.mark.parametrize(
    ("given", "range_"),
    [(None, (1, 1)), (3, (3, 3)), ("3", (3, 3)), ("2:8", (2, 8)), (" 2 : 8 ", (2, 8)), ((2, 8), (2, 8)),
     ([2, 2], (2, 2))],
)  # fmt: skip
def test_a_number_or_a_range(given, range_):
    assert read_range(given) == range_


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("two", "`workers` is 'two', expected N, or MIN:MAX such as 2:8"),
        ("2:", "`workers` is '2:', expected N, or MIN:MAX"),
        (":8", "`workers` is ':8', expected N, or MIN:MAX"),
        ("2:8:9", "`workers` is '2:8:9', expected N, or MIN:MAX"),
        ("2.5", "`workers` is '2.5', expected N, or MIN:MAX"),
        (2.0, "`workers` is 2.0, expected N, or MIN:MAX"),
        (True, "`workers` is True, expected N, or MIN:MAX"),
        ((1, 2, 3), "`workers` is (1, 2, 3), expected N, or MIN:MAX"),
        (("1", "2"), "`workers` is ('1', '2'), expected N, or MIN:MAX"),
        ("0:3", "`workers` is 0:3, expected at least 1"),
        ("-1", "`workers` is -1, expected at least 1"),
        ((0, 3), "`workers` is (0, 3), expected at least 1"),
        ("8:2", "`workers` is 8:2, expected MIN:MAX with MIN at most MAX"),
    ],
)
def test_what_is_no_number_of_workers(given, message):
    with pytest.raises(BadInput) as error:
        read_range(given)
    assert str(error.value).startswith(message)


def test_labels_of_machines():
    assert read_labels(None) == {}
    assert read_labels({"ray.io/market-type": "spot"}) == {"ray.io/market-type": "spot"}
    assert read_labels(["ray.io/market-type=spot", "zone=a=b"]) == {"ray.io/market-type": "spot", "zone": "a=b"}
    for wrong in ("spot", "=spot", "zone=", ""):
        with pytest.raises(BadInput, match=r"`label_selector` is .*, expected KEY=VALUE"):
            read_labels([wrong])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "local", "--workers", "8:2"], "--workers is 8:2, expected MIN:MAX with MIN at most MAX"),
        (["--ray", "local", "--workers", "many"], "--workers is 'many', expected N, or MIN:MAX such as 2:8"),
        (["--workers", "2:8"], "--workers is 2:8, but only --ray has workers"),
        (["--ray", "local", "--workers", "1:300"], "workers is 300, but autoencoder.batch_size is 128"),
        (["--label-selector", "a=b"], "--label-selector is ['a=b'], but only --ray has workers"),
        (["--ray", "local", "--label-selector", "spot"], "--label-selector is 'spot', expected KEY=VALUE"),
    ],
)
def test_the_command_refuses_before_anything_starts(tiny_atlas, tmp_path, capsys, options, message):
    assert main(["train", str(tiny_atlas), "--out", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Granted:
    """Claims of which one more is granted each time they are looked at, up to a limit."""

    limit, dropped = 0, False

    def __init__(self, n, each, labels):
        self.n, self.looks = n, 0

    def granted(self):
        self.looks += 1
        return min(self.looks, self.limit, self.n)

    def drop(self):
        Granted.dropped = True


@pytest.mark.parametrize(("limit", "found"), [(1, 1), (3, 3), (9, 4)])
def test_room_is_counted_until_no_more_comes(monkeypatch, limit, found):
    monkeypatch.setattr("cfgen_dist.workers.room.Claims", Granted)
    monkeypatch.setattr(Granted, "limit", limit)
    monkeypatch.setattr(Granted, "dropped", False)
    assert count_room(1, 4, {"CPU": 1}, {}, 0.5, lambda: None) == found
    assert Granted.dropped, "nothing is kept from others"


def test_what_is_waited_for_can_be_stopped(monkeypatch):
    """Fewer than asked for is no reason to begin; whoever waits can be told to stop."""
    monkeypatch.setattr("cfgen_dist.workers.room.Claims", Granted)
    monkeypatch.setattr(Granted, "limit", 1)
    calls = []

    def tell():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_room(2, 4, {"CPU": 1}, {}, 0.1, tell)
    assert Granted.dropped
