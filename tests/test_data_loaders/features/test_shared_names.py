"""Sources that hardly share a name are refused with what would match; what a join loses is said."""

import numpy as np
import pandas as pd
import pytest
from ingest_helpers import ingested, refused
from small_data import small_adata

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest, open_atlas

IDS = [f"ENSG{i:011d}" for i in range(25)]
SYMBOLS = [f"Sym{i}" for i in range(25)]


def write(tmp_path, *tables):
    """A file for each table of genes, with the counts of its seed."""
    paths = []
    for number, var in enumerate(tables):
        adata = small_adata(seed=number, n_genes=len(var))
        adata.var = var
        adata.obs_names = [f"{number}-{i}" for i in range(60)]
        paths.append(tmp_path / f"{'abcdef'[number]}.h5ad")
        adata.write_h5ad(paths[-1])
    return paths


def table(names, **columns):
    return pd.DataFrame(columns, index=list(names))


@pytest.mark.parametrize("join", [None, "inner", "outer"])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            table(SYMBOLS, gene_ids=IDS),
            table(IDS),
            "var['gene_ids'] of {a} and the names of {b} share 25 genes: `var_names=['gene_ids', 'index']` names them",
        ),
        (
            table(SYMBOLS),
            table(IDS, feature_name=SYMBOLS, other=IDS),
            "the names of {a} and var['feature_name'] of {b} share 25 genes: `var_names=['index', 'feature_name']`",
        ),
        (
            table([f"a{i}" for i in range(25)], symbol=SYMBOLS),
            table([f"b{i}" for i in range(25)], symbol=SYMBOLS),
            "var['symbol'] of {a} and var['symbol'] of {b} share 25 genes: `var_names='symbol'` names them so",
        ),
        (
            table(IDS),
            table([f"{name}.{i}" for i, name in enumerate(IDS)]),
            "share 25 genes without the versions of identifiers (ENSG00000141510.12): take those off first",
        ),
        (
            table(SYMBOLS),
            table([name.upper() for name in SYMBOLS]),
            "share 25 genes in one letter case (symbols of two species, perhaps): write them alike first",
        ),
        (
            table(SYMBOLS, gene_ids=[f"{name}.1" for name in IDS]),
            table(IDS),
            "(ENSG00000141510.12): `var_names=['gene_ids', 'index']` names them so, and take those off first",
        ),
        (
            table(SYMBOLS),
            table(IDS, feature_name=["Sym0", "Sym0", *SYMBOLS[2:]]),
            "names them so, and its names must be made unique first",
        ),
        (table(SYMBOLS), table(IDS), "nothing else in their var matches"),
    ],
)
def test_no_shared_name_is_refused_with_what_would_match(tmp_path, join, first, second, expected):
    a, b = write(tmp_path, first, second)
    expected = expected.format(a=a, b=b)
    message = refused(tmp_path, [a, b], join=join)
    assert message.startswith(f"{b}: none of its genes is in {a}, no gene is in all of them ({first.index[0]!r} in ")
    assert f"{second.index[0]!r} here); " in message
    assert expected in message
    assert message.endswith("; `min_shared=0` with `join='outer'` joins them as they are")
    with pytest.raises(BadInput) as error:
        open_atlas([a, b], join=join or "same")
    assert str(error.value) == message


def test_few_shared_names_are_refused_and_can_be_insisted_on(tmp_path):
    a, b = write(tmp_path, table(SYMBOLS), table([*SYMBOLS[:2], *IDS[2:]]))
    for join in ("inner", "outer"):
        message = refused(tmp_path, [a, b], join=join)
        assert message.startswith(f"{b}: shares 2 genes with {a}, 8 % of 25 (")
    out, card = ingested(tmp_path, [a, b], join="outer", min_shared=0)
    assert out.n_vars == 48
    assert card["options"]["min_shared"] == 0
    assert open_atlas([a, b], join="outer", min_shared=0).n_genes == 48
    assert open_atlas([a, b], join="inner", min_shared=0.08).n_genes == 2
    for call in (lambda: ingest(a, tmp_path / "x.zarr", min_shared=2), lambda: open_atlas([a, b], min_shared=2)):
        with pytest.raises(BadInput, match="`min_shared=2`: expected a share from 0 to 1"):
            call()


def test_a_panel_joins_a_transcriptome(tmp_path):
    paths = write(tmp_path, table(SYMBOLS), table(SYMBOLS[:6]))
    out, _ = ingested(tmp_path, paths, join="outer", drop_empty=True)
    assert out.n_vars == 25


def test_names_that_all_share_are_few_although_neighbours_share_many(tmp_path):
    names = [f"g{i}" for i in range(60)]
    paths = write(tmp_path, table(names[:25]), table(names[13:38]), table(names[25:50]))
    assert "shares 0 genes" not in (message := refused(tmp_path, paths, join="inner"))
    assert "none of its genes is in the 2 sources before it, no gene is in all of them" in message
    out, _ = ingested(tmp_path, paths, join="outer")
    assert out.n_vars == 50


def test_what_a_join_loses_is_said(tmp_path, capsys, caplog):
    a, b = write(tmp_path, table(SYMBOLS), table([*SYMBOLS[:20], *IDS[:5]]))
    open_atlas([a, b], join="inner")
    assert caplog.messages[0].startswith("join inner: 20 genes are in every source and kept; lost are 20 % of")
    words = ["ingest", str(a), str(b), "--min-cells", "0", "--drop-empty", "--join"]
    assert main([*words, "inner", str(tmp_path / "i.zarr")]) == 0
    note = (
        f"note: join inner: 20 genes are in every source and kept; lost are 20 % of those of {a}, 20 % of those of {b}"
    )
    assert f"{note}\n" in capsys.readouterr().out
    assert main([*words, "outer", str(tmp_path / "o.zarr")]) == 0
    printed = capsys.readouterr().out
    assert "note: join outer: 10 of 30 genes are missing in a source and zero there: 16.7 % in " in printed
    paths = write(tmp_path, *[table(SYMBOLS[: 20 + i]) for i in range(5)])
    _, card = ingested(tmp_path, paths, join="inner", drop_empty=True)
    assert any(note.endswith(", 4.76 % or less in 1 more") for note in card["notes"])


def test_nothing_is_said_where_nothing_is_lost(tmp_path):
    paths = write(tmp_path, table(SYMBOLS), table(SYMBOLS[::-1]))
    _, card = ingested(tmp_path, paths, join="inner")
    assert not any("join" in note for note in card["notes"])


def test_the_command_speaks_of_its_options(tmp_path, capsys):
    a, b = write(tmp_path, table(SYMBOLS, gene_ids=IDS), table(IDS))
    words = ["ingest", str(a), str(b), str(tmp_path / "o.zarr"), "--min-cells", "0", "--join", "outer"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert (
        "share 25 genes: --var-names gene_ids --var-names index names them so; --min-shared 0 with --join outer"
        in error
    )
    assert main([*words, "--var-names", "gene_ids", "--var-names", "index"]) == 0


def test_stores_that_repeat_names_are_not_joined_by_them(tmp_path):
    names = ["A", "A", *SYMBOLS[2:]]
    a, b = write(tmp_path, table(SYMBOLS), table(names))
    with pytest.raises(BadInput, match="more than one gene is called 'A'; stores whose genes differ are joined by"):
        open_atlas([a, b], join="inner")
    same = open_atlas([b, b])
    assert same.n_cells == 120
    np.testing.assert_array_equal(same.genes, names)
