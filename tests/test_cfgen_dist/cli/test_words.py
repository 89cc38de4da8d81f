"""Messages of the library in the words of the command line."""

import pytest
from small_data import small_adata

from cfgen_dist.cli import COMMANDS, Parser, main
from cfgen_dist.cli.words import in_options


@pytest.fixture
def parser():
    parser = Parser()
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--drop-empty", action="store_true")
    parser.add_argument("--obs", dest="obs_files", action="append")
    parser.add_argument("--layer")
    return parser


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`drop_empty=True` leaves them out", "--drop-empty leaves them out"),
        ("`layer=NAME` or `layer='a b'`", "--layer NAME or --layer a b"),
        ("`obs_files=['a b', 'c']` or `obs_files=[`", "--obs a b --obs c or --obs ["),
        ("`obs_files`: 2 tables, `out`: none", "--obs: 2 tables, OUT: none"),
        ("a store that `ingest()` wrote", "a store that `cfgen-dist ingest` wrote"),
        (
            "`ingest('a b.h5ad', OUT, drop_empty=True, genes='hvg:9')`",
            "`cfgen-dist ingest a b.h5ad OUT --drop-empty --genes hvg:9`",
        ),
        ("`raw=True`, `max()`, `a b` and `-1`", "`raw=True`, `max()`, `a b` and `-1`"),
    ],
)
def test_python_becomes_options(parser, message, expected):
    assert in_options(message, parser, COMMANDS) == expected


def test_commands_name_their_options(tmp_path, capsys):
    source, out = tmp_path / "a.h5ad", str(tmp_path / "a.zarr")
    adata = small_adata()
    adata.X[4] = 0
    adata.X.eliminate_zeros()
    adata.write_h5ad(source)
    for command, expected in (
        (["ingest", source, out, "--min-cells", "-1"], "error: --min-cells -1: expected 0 or more"),
        (["ingest", source, out, "--min-cells", "0"], "one of 1 such cells; --drop-empty leaves them out"),
        (["ingest", source, out, "--obs", source, "--obs", source], "error: --obs: 2 tables for 1 sources"),
        (["ingest", source, out, "--layer", "x", "--raw"], "a.h5ad: --layer x and --raw together"),
        (["ingest", source, out, "--genes", "hvg:0"], "error: --genes hvg:0: expected hvg:N"),
        (["ingest", source, out, "--measurement", "RNA"], "--measurement chooses within a SOMA experiment"),
        (["simulate", out, "--cells", "0", "--genes", "5"], "error: --cells 0: expected at least 1"),
        (["export", source, out, "--to", "h5da"], "error: --to h5da: did you mean 'h5ad'?"),
        (["describe", tmp_path], "no zarr.json, card.json or bundle/card.json there"),
    ):
        assert main([str(word) for word in command]) == 2
        assert expected in capsys.readouterr().err
