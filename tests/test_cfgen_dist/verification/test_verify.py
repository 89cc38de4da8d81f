"""What `verify` compares, and what it says of damage."""

import json
import shutil

import anndata
import numpy as np
import pytest

from cfgen_dist import generate, verify
from cfgen_dist.cli import main
from cfgen_dist.generation.parts import write_part
from data_loaders import BadInput, export, simulate


def flip(file, position=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    file.write_bytes(content)


@pytest.fixture
def atlas(tmp_path):
    simulate(tmp_path / "a.zarr", cells=90, genes=20, types=3, donors=2, density=0.4)
    return tmp_path / "a.zarr"


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def shared_cells(shared, tiny_run):
    return shared("verify", lambda path: (path.mkdir(), generate(tiny_run, path / "cells.zarr", 300, shard_size=60)))


@pytest.fixture
def cells(shared_cells, tmp_path):
    shutil.copytree(shared_cells, tmp_path / "cells")
    return tmp_path / "cells" / "cells.zarr"


def test_a_sound_atlas(atlas, capsys):
    report = verify(atlas)
    files = [path for path in atlas.rglob("*") if path.is_file()]
    assert report["kind"] == "atlas"
    assert report["files"] == len(files) - 1  # all but the manifest, which has a checksum of its own
    assert report["unchecked"] == []
    assert main(["verify", str(atlas)]) == 0
    assert f"{report['files']} files" in capsys.readouterr().out


def test_every_damaged_file_of_an_atlas_is_named(atlas, capsys):
    for file in sorted(path for path in atlas.rglob("*") if path.is_file()):
        content = file.read_bytes()
        flip(file)
        with pytest.raises(BadInput) as refused:
            verify(atlas)
        assert "\n" not in str(refused.value)
        assert file.parent == atlas or file.relative_to(atlas).parts[0] in str(refused.value)
        file.write_bytes(content)
    flip(atlas / "X" / "data" / "c" / "0")
    (atlas / "var" / "mean" / "c" / "0").unlink()
    (atlas / "var" / "mean" / "c" / "7").write_bytes(b"x")
    assert main(["verify", str(atlas)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "3 faults: X/data/c/0 has a wrong checksum, var/mean/c/0 is missing, var/mean/c/7 does not belong" in said


def test_a_store_without_checksums_is_read_and_said_to_have_none(tmp_path, capsys):
    counts = np.random.default_rng(0).poisson(1, (30, 20)).astype(np.float32)
    anndata.AnnData(counts).write_zarr(tmp_path / "foreign.zarr")
    report = verify(tmp_path / "foreign.zarr")
    assert (report["kind"], report["files"], report["unchecked"]) == ("store", 0, [str(tmp_path / "foreign.zarr")])
    assert main(["verify", str(tmp_path / "foreign.zarr")]) == 0
    assert "without checksums" in capsys.readouterr().out


def test_a_store_written_anew_by_anndata_is_refused(atlas, tmp_path):
    adata = anndata.read_zarr(atlas)
    adata.write_zarr(tmp_path / "b.zarr")
    with pytest.raises(BadInput, match="written anew by another program"):
        verify(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "nothing"}, "nothing there; expected the folder of an atlas"),
        ({"shards": 2}, "give its `run`"),
        ({"run": "run", "shards": 0}, "`shards` is 0, expected at least 1"),
        ({"run": "run"}, "no generated atlas"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_what_cannot_be_asked(atlas, tmp_path, options, message):
    options = {"store": "a.zarr", **options}
    with pytest.raises(BadInput, match=message):
        verify(tmp_path / options.pop("store"), **options)


def test_an_h5ad_is_refused(atlas, tmp_path):
    export(atlas, tmp_path / "a.h5ad")
    with pytest.raises(BadInput, match="a file there; expected the folder"):
        verify(tmp_path / "a.h5ad")


def test_generated_cells_are_made_again(cells, run, capsys):
    report = verify(cells, run, 2, seed=1)
    assert (report["kind"], report["cells"], len(report["shards"])) == ("generated atlas", 120, 2)
    assert verify(cells, run, 2, seed=1, workers=1) == report
    assert verify(cells, run, 99)["shards"] == [0, 1, 2, 3, 4]
    assert main(["verify", str(cells), "--run", str(run / "bundle"), "--shards", "1"]) == 0
    assert "60 cells made again from model and plan" in capsys.readouterr().out


def test_cells_that_the_model_did_not_make_are_seen(tiny_run, tmp_path, monkeypatch):
    """Sound files, so only making the cells again tells."""
    from cfgen_dist.generation import store

    def forged(model, shard, plan, ledger, sample):
        def sampled(*arguments):
            counts, codes = sample(*arguments)
            counts["rna"].data[0] += shard == 1
            if shard == 2:
                codes = codes[::-1]
            return counts, codes

        return write_part(model, shard, plan, ledger, sampled)

    monkeypatch.setattr(store, "write_part", forged)
    generate(tiny_run, tmp_path / "cells.zarr", 300, shard_size=60)
    verify(tmp_path / "cells.zarr")
    with pytest.raises(
        BadInput, match=r"2 faults: shard 1 is .*\(1 of 60 cells have other counts of rna\), shard 2 is"
    ):
        verify(tmp_path / "cells.zarr", tiny_run, 5)


def test_a_plan_beside_its_store_is_compared(cells):
    plan = cells.with_name("cells.zarr.plan.json")
    plan.write_text(plan.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(BadInput, match=r"cells.zarr.plan.json was changed after it was written"):
        verify(cells)


def test_a_changed_plan_is_not_carried_out(cells, tiny_run, tmp_path):
    plan = cells.with_name("cells.zarr.plan.json")
    values = json.loads(plan.read_text()) | {"seed": 1}
    plan.write_text(json.dumps(values))
    with pytest.raises(BadInput, match="was changed after it was written"):
        generate(tiny_run, tmp_path / "again.zarr", plan=plan)
    del values["checksum"]  # by somebody who knows what they do
    plan.write_text(json.dumps(values))
    generate(tiny_run, tmp_path / "again.zarr", plan=plan)


def test_a_run_and_its_bundle(run):
    report = verify(run)
    assert report["kind"] == "run"
    assert report["unchecked"] == []
    assert verify(run / "bundle")["kind"] == "bundle"
    latents = verify(run / "latents.zarr")
    assert latents["kind"] == "latents"


@pytest.mark.parametrize(
    "file",
    [
        "config.yaml",
        "atlas.json",
        "autoencoder/weights.safetensors",
        "autoencoder/best.ckpt",
        "autoencoder/metrics.csv",
        "flow/weights.safetensors",
        "latents.zarr/X/c/0/0",
        "latents.zarr/obs/donor/categories/c/0",
        "bundle/card.json",
        "bundle/flow.safetensors",
    ],
)
def test_damage_in_a_run_is_named(run, file):
    if file == "config.yaml":
        (run / file).write_text((run / file).read_text().replace("seed: 0", "seed: 1"))
    else:
        flip(run / file)
    with pytest.raises(BadInput) as refused:
        verify(run)
    assert file.split("/")[-1] in str(refused.value) or file in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "position"),
    [
        ("autoencoder/weights.safetensors", -5),
        ("latents.zarr/obs/cell_type/codes/c/0", 5),
        ("latents.zarr/obs/donor/categories/c/0", 20),
        ("config.yaml", None),
    ],
)
def test_a_flipped_bit_between_a_kill_and_the_resumption_is_refused(tiny_atlas, run, file, position):
    from cfgen_dist import train

    shutil.rmtree(run / "bundle")
    if file.startswith("latents.zarr"):  # as if the flow had not begun
        shutil.rmtree(run / "flow")
    if position is None:
        (run / file).write_text((run / file).read_text().replace("seed: 0", "seed: 1"))
    else:
        flip(run / file, position)
    with pytest.raises(BadInput) as refused:
        train(tiny_atlas, run, resume=True)
    assert "\n" not in str(refused.value)


def test_without_a_damaged_file_a_run_goes_on_to_the_same_model(tiny_atlas, run, tiny_run):
    from cfgen_dist import train

    shutil.rmtree(run / "bundle")
    flip(run / "flow" / "weights.safetensors", -5)
    with pytest.raises(BadInput, match="without that file the stage is done again"):
        train(tiny_atlas, run, resume=True)
    (run / "flow" / "weights.safetensors").unlink()
    train(tiny_atlas, run, resume=True)
    made, expected = (json.loads((path / "bundle" / "card.json").read_text()) for path in (run, tiny_run))
    assert made == expected


def test_other_counts_are_not_trained_on(tiny_atlas, run, tmp_path):
    """Of an atlas that anndata wrote anew with its card."""
    from cfgen_dist import train

    shutil.rmtree(run / "bundle")
    adata = anndata.read_zarr(tiny_atlas)
    adata.X = adata.X * 2
    adata.write_zarr(tmp_path / "b.zarr")
    with pytest.raises(BadInput, match="not an atlas"):
        train(tmp_path / "b.zarr", run, resume=True)


def test_an_atlas_with_a_damaged_file_is_not_trained_on(tiny_atlas, run, tmp_path):
    from cfgen_dist import train

    shutil.rmtree(run / "bundle")
    shutil.copytree(tiny_atlas, tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "var" / "variance" / "c" / "0").write_bytes(b"x")
    with pytest.raises(BadInput, match="var/variance"):
        train(tmp_path / "a.zarr", run, resume=True)
