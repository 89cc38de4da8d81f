"""Where a command cannot write to an address, it is refused in one line, and nothing is made here."""

import pytest

from cfgen_dist.cli import COMMANDS, main
from data_loaders import open_atlas
from data_loaders.errors import BadInput
from data_loaders.files import refuse_address

OUT = "OUT"
WITHOUT_OUTPUT = {"describe", "plan", "verify"}
INTO_BUCKETS = {
    "simulate", "ingest", "export", "generate", "augment", "guide", "translate", "classify", "evaluate", "audit",
    "train", "tune",
}  # fmt: skip
LINES = {
    "demo": ["--out", OUT],
}


def test_every_command_is_here():
    """A new command that makes something gets a line above."""
    assert set(COMMANDS) - WITHOUT_OUTPUT - INTO_BUCKETS == set(LINES)


@pytest.mark.parametrize("command", LINES)
def test_an_address_is_no_output(command, bucket, tiny_run, tiny_atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"ATLAS": str(tiny_atlas), "RUN": str(tiny_run), "OUT": f"{bucket.url}/out"}
    words = [names.get(word, word) for word in LINES[command]]
    words = [word.replace("DONOR", open_atlas(tiny_atlas).categories("donor")[0]) for word in words]
    assert main([command, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error == (
        f"error: {bucket.url}/out: this output is written to a disk alone; expected a path on a disk, to copy from"
    )
    assert list(tmp_path.iterdir()) == bucket.keys() == []


@pytest.mark.parametrize("out", ["s3://b/a", "gs://b/a", "az://b/a", "https://host/a", "file:///tmp/a", "s3:/b/a"])
def test_addresses_of_all_kinds(out):
    with pytest.raises(BadInput, match="this output is written to a disk alone"):
        refuse_address(out)


def test_paths_are_no_addresses_and_secrets_are_not_shown(tmp_path):
    for path in (tmp_path / "a:b", "a.zarr", "../x", "a:b"):
        refuse_address(path)
    with pytest.raises(BadInput) as caught:
        refuse_address("s3://user:word@host/a?X-Amz-Signature=abc")
    assert "word" not in str(caught.value)
    assert "abc" not in str(caught.value)
