"""The stage after training that sets the decoder's means right, and what it changes of bundles and generated cells."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from multimodal_data import write_pair
from safetensors.torch import load_file, save_file

from cfgen_dist import CFGen, describe, generate, train, translate, verify
from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.model.multimodal import branches
from cfgen_dist.training import calibration
from cfgen_dist.training.calibration import calibrate
from cfgen_dist.training.modalities import fitted_rows
from cfgen_dist.training.run import read_run
from cfgen_dist.workers.parts import Ledger
from data_loaders import CellStream, ingest, open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def atlas(tiny_atlas):
    return open_atlas(tiny_atlas)


def state_of(found):
    return {name: table.numpy().tobytes() for name, table in found.state().items()}


def again(atlas, run, folder):
    """The calibration of a finished run, computed anew."""
    model = CFGen.load(run)
    return calibrate(atlas, model.autoencoder, model.config, folder)


def means(model, atlas, label, calibrated=True):
    """Per modality: observed and expected proportions (or shares of ones) of each category, (C, F) each."""
    rows = fitted_rows(atlas, model.config.modalities, model.config.refit)
    (batch,) = CellStream(
        atlas, len(rows), rows=rows, labels=list(model.labels), unlabelled="keep", shuffle=False, buffer_bytes=1 << 28
    )
    codes, there, found = batch.labels[label], batch.to("cpu"), {}
    with torch.inference_mode():
        z = model.autoencoder.encode(model.autoencoder.dense(there.counts), there.size_factor)
        for name, network in branches(model.autoencoder).items():
            shift = model.calibration.shift(name, there.labels) if calibrated else None
            expected, counts = network.expected(z, shift).numpy(), batch.counts[name].to_scipy().toarray()
            if network.likelihood.scales_with_size_factor:
                observed = counts / counts.sum(axis=1, keepdims=True)
            else:
                observed = counts > 0
            kinds = range(len(model.labels[label]))
            found[name] = [np.stack([part[codes == k].mean(axis=0) for k in kinds]) for part in (observed, expected)]
    return found


def test_means_of_the_last_attribute_become_those_of_the_cells(run, atlas):
    model = CFGen.load(run)
    for label in ("cell_type", "donor"):
        (before, after) = (means(model, atlas, label, calibrated)["rna"] for calibrated in (False, True))
        bias = [np.abs(expected - observed).sum() for observed, expected in (before, after)]
        assert bias[1] < 0.2 * bias[0], label


def test_a_trained_run_has_the_calibration_in_its_bundle_and_says_so(run, atlas, capsys):
    model, card = CFGen.load(run), describe(run)
    assert card["format"] == 2
    assert set(card["calibration"]) == {"cell_type", "donor"}
    assert "calibration.safetensors" in card["sha256"]
    tables = model.calibration.tables["rna"]
    assert tables["cell_type"].shape == (3, atlas.n_genes)
    root = float(tables["donor"].double().square().mean().sqrt())
    assert card["calibration"]["donor"]["rna"] == pytest.approx(root)
    training = card["provenance"]["training"]
    assert training["val_nll"] < training["val_nll_uncalibrated"]
    assert main(["describe", str(run)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "calibrated by cell_type: offsets of" in out
    assert "(the same without the calibration)" in out
    assert verify(run)["unchecked"] == []


def test_off_leaves_bundle_and_cells_as_they_were(tiny_atlas, run, tmp_path):
    out = tmp_path / "off"
    settings = [f"--{key}={json.dumps(value)}" for key, value in TINY.items()]
    assert main(["train", str(tiny_atlas), "--out", str(out), *settings, "--calibrate", "off"]) == 0
    assert not (out / "calibration").exists()
    assert not (out / "bundle" / "calibration.safetensors").exists()
    plain, calibrated = CFGen.load(out), CFGen.load(run)
    assert describe(out)["format"] == 1
    assert plain.calibration is None
    assert (plain.generate(50, seed=3).X != calibrated.generate(50, seed=3).X).nnz > 0
    calibrated.calibration = None  # the weights are those of the same training
    assert (plain.generate(50, seed=3).X != calibrated.generate(50, seed=3).X).nnz == 0


def test_cells_that_are_not_made_by_an_attribute_do_not_get_its_offsets(run):
    model = CFGen.load(run)
    cells = model.generate(40, guidance={"cell_type": 0.0, "donor": 1.0}, seed=2)
    model.calibration.tables["rna"]["cell_type"].fill_(3.0).mul_(torch.rand(120))
    same = model.generate(40, guidance={"cell_type": 0.0, "donor": 1.0}, seed=2)
    assert (cells.X != same.X).nnz == 0
    assert (cells.X != model.generate(40, guidance={"cell_type": 1.0, "donor": 1.0}, seed=2).X).nnz > 0


def test_parts_interruptions_and_batches_of_rows_change_no_byte(run, atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "PART_ROWS", 100)
    expected = state_of(again(atlas, run, tmp_path / "whole"))
    assert not (tmp_path / "whole").exists()
    done, commit = [], Ledger.commit

    def dies(self, part, *args, **facts):
        if len(done) == 6:  # in the second attribute
            raise KeyboardInterrupt
        done.append(part)
        return commit(self, part, *args, **facts)

    monkeypatch.setattr(Ledger, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        again(atlas, run, tmp_path / "cut")
    n_parts = len(list((tmp_path / "cut").glob("*.npz")))
    assert n_parts > 0
    (first := tmp_path / "cut" / "part-000000.npz").write_bytes(first.read_bytes()[:-1])
    monkeypatch.setattr(Ledger, "commit", commit)
    assert state_of(again(atlas, run, tmp_path / "cut")) == expected


def test_a_damaged_part_is_made_again_when_parts_are_added(run, atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "PART_ROWS", 100)
    expected, commit = state_of(again(atlas, run, tmp_path / "whole")), Ledger.commit

    def spoils(self, part, *args, **facts):
        record = commit(self, part, *args, **facts)
        if part == "part-000002":
            content = bytearray(self.arrays_path(part).read())
            content[len(content) // 2] ^= 1
            self.arrays_path(part).write(bytes(content))
        return record

    monkeypatch.setattr(Ledger, "commit", spoils)
    assert state_of(again(atlas, run, tmp_path / "spoiled")) == expected


def test_a_run_cut_before_its_bundle_ends_with_the_same(run, tiny_atlas):
    before = {path.name: path.read_bytes() for path in (run / "bundle").iterdir()}
    for folder in ("calibration", "bundle"):
        shutil.rmtree(run / folder)
    train(tiny_atlas, run, resume=True)
    assert {path.name: path.read_bytes() for path in (run / "bundle").iterdir()} == before
    shutil.rmtree(run / "bundle")
    table = run / "calibration" / "weights.safetensors"
    content = bytearray(table.read_bytes())
    content[-3] ^= 1
    table.write_bytes(content)
    with pytest.raises(BadInput, match=r"calibration/weights.safetensors is damaged .* the stage is done again"):
        train(tiny_atlas, run, resume=True)
    table.unlink()
    train(tiny_atlas, run, resume=True)
    assert {path.name: path.read_bytes() for path in (run / "bundle").iterdir()} == before


def test_damaged_and_wrong_offsets_in_a_bundle_are_refused(run, capsys):
    path = run / "bundle" / "calibration.safetensors"
    content, state = path.read_bytes(), load_file(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadInput, match=r"calibration.safetensors is damaged"):
        CFGen.load(run)
    path.unlink()
    with pytest.raises(BadInput, match=r"calibration.safetensors is missing"):
        CFGen.load(run)
    for change in (
        {"rna.donor": state["rna.donor"][:, 1:].contiguous()},
        {"rna.donor": torch.full_like(state["rna.donor"], torch.nan)},
        {"rna.batch": state["rna.donor"].clone()},
    ):
        save_file(state | change, path)
        _sign(run / "bundle")
        with pytest.raises(BadInput, match=r"calibration.safetensors: .*rna\.(donor|batch)"):
            CFGen.load(run)
    assert main(["generate", str(run), str(run.parent / "x.zarr"), "--cells", "5"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def _sign(bundle):
    import hashlib

    card = json.loads((bundle / "card.json").read_text())
    file = bundle / "calibration.safetensors"
    card["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (bundle / "card.json").write_text(json.dumps(card))


def test_runs_and_bundles_of_before_are_read_as_ever(run, tiny_atlas, tmp_path):
    """Without the setting, the stage and the file."""
    model = CFGen.load(run)
    model.calibration = None
    model.save(tmp_path / "old")
    assert CFGen.load(tmp_path / "old").calibration is None
    lines = (run / "config.yaml").read_text().splitlines()
    (run / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith("calibrate:")) + "\n")
    from cfgen_dist.config import to_dict
    from cfgen_dist.training.run import _digest
    from data_loaders.vouchers import sealed

    saved = to_dict(load_config(run / "config.yaml"))
    saved.pop("calibrate")
    facts = json.loads((run / "atlas.json").read_text()) | {"config": _digest(saved)}
    facts.pop("checksum")
    (run / "atlas.json").write_text(json.dumps(sealed(facts)))
    assert read_run(run)[0].calibrate
    train(tiny_atlas, run, resume=True)


def test_shards_are_made_again_and_translations_differ_by_the_offsets(run, tiny_atlas, tmp_path):
    generate(run, tmp_path / "cells.zarr", 120, shard_size=40)
    assert verify(tmp_path / "cells.zarr", run=run, shards=3)["shards"] == [0, 1, 2]
    model = CFGen.load(run)
    (name, other) = model.labels["donor"]
    model.calibration.tables["rna"]["donor"][1].add_(torch.linspace(-3, 3, 120))
    model.save(tmp_path / "changed")
    made = []
    for bundle, to in ((run, other), (tmp_path / "changed", other), (run, name), (tmp_path / "changed", name)):
        path = tmp_path / f"{len(made)}.zarr"
        translate(bundle, tiny_atlas, path, to={"donor": to}, split="test")
        store = open_atlas(path)
        made.append(store.read(np.arange(store.n_cells)).to_scipy())
    assert (made[0] != made[1]).nnz > 0, "offsets of the donor that cells are translated to"
    assert (made[2] != made[3]).nnz == 0, "not of the one that they come from"


def test_unlabelled_cells_calibrate_the_attributes_that_they_have(tiny_atlas, tmp_path):
    import anndata as ad

    cells = ad.AnnData(open_atlas(tiny_atlas).read(np.arange(600)).to_scipy().astype(np.float32))
    atlas = open_atlas(tiny_atlas)
    for label in ("cell_type", "donor"):
        cells.obs[label] = np.asarray(atlas.categories(label), object)[atlas.codes(label)]
    cells.obs.loc[cells.obs_names[:80], "donor"] = None
    cells.write_h5ad(tmp_path / "a.h5ad")
    ingest([tmp_path / "a.h5ad"], tmp_path / "a.zarr", labels=["cell_type", "donor"], min_cells=1, unlabelled="keep")
    train(tmp_path / "a.zarr", tmp_path / "run", load_config(overrides=TINY))
    model, atlas = CFGen.load(tmp_path / "run"), open_atlas(tmp_path / "a.zarr")
    observed, expected = means(model, atlas, "cell_type")["rna"]
    uncalibrated = means(model, atlas, "cell_type", calibrated=False)["rna"][1]
    assert np.abs(expected - observed).sum() < 0.3 * np.abs(uncalibrated - observed).sum()


def test_peaks_and_proteins_are_calibrated_too(tmp_path):
    rna, atac = write_pair(tmp_path, n=400)
    shutil.copyfile(atac, tmp_path / "adt.h5ad")
    sources = {"rna": rna, "atac": atac, "adt": tmp_path / "adt.h5ad"}
    ingest(sources, tmp_path / "a.zarr", labels=["cell_type", "donor"], min_cells=0)
    settings = {**TINY, "modalities.hidden": [32, 16], "modalities.code_dim": 12}
    settings["modalities.likelihood"] = "adt=poisson"
    train(tmp_path / "a.zarr", tmp_path / "run", load_config(overrides=settings))
    model, atlas = CFGen.load(tmp_path / "run"), open_atlas(tmp_path / "a.zarr")
    assert set(describe(tmp_path / "run")["calibration"]["donor"]) == {"rna", "atac", "adt"}
    before, after = (means(model, atlas, "cell_type", calibrated) for calibrated in (False, True))
    for name in ("rna", "atac", "adt"):
        bias = [np.abs(part[name][1] - part[name][0]).sum() for part in (before, after)]
        assert bias[1] < 0.35 * bias[0], name
    assert model.generate(30).obsm["atac"].max() == 1


def as_rank(rank, port, run, atlas, folder):
    import os

    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    calibration.PART_ROWS = 100
    found = again(open_atlas(atlas), run, folder / "parts")
    save_file(found.state(), folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def test_two_ranks_come_to_the_bytes_of_one(run, tiny_atlas, tmp_path, monkeypatch):
    import socket

    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    torch.multiprocessing.spawn(as_rank, (port, run, tiny_atlas, tmp_path), nprocs=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(calibration, "PART_ROWS", 100)
    alone = state_of(again(open_atlas(tiny_atlas), run, tmp_path / "alone"))
    torch.set_num_threads(threads)
    for rank in (0, 1):
        tables = load_file(tmp_path / f"{rank}.safetensors")
        assert {name: table.numpy().tobytes() for name, table in tables.items()} == alone
