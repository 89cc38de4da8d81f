"""Translation: what it must keep, what it must change, the same bytes however it is run, and what it refuses."""

import json
import shutil
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.parts import write_part
from cfgen_dist.generation.run import generate
from cfgen_dist.translation.run import score_translation, translate
from cfgen_dist.translation.shard import (
    plan_translation,
    source_and_target,
    source_rows,
    translate_latents,
    translate_shard,
)
from cfgen_dist.workers.parts import Ledger, open_parts
from data_loaders import AtlasWriter, open_atlas
from data_loaders.errors import BadInput


@pytest.fixture(scope="module")
def model(tiny_run):
    return CFGen.load(tiny_run)


@pytest.fixture(scope="module")
def atlas(tiny_atlas):
    return open_atlas(tiny_atlas)


@pytest.fixture(scope="module")
def translated(tiny_run, tiny_atlas, tmp_path_factory):
    """All cells of the tiny atlas as if of the first donor, in shards of 130."""
    out = tmp_path_factory.mktemp("translated") / "cells.zarr"
    donor = open_atlas(tiny_atlas).categories("donor")[0]
    summary = translate(tiny_run, tiny_atlas, out, {"donor": donor}, shard_size=130, seed=2, workers=1)
    return out, summary


def rewritten(source, path, change, rows=slice(None)):
    """A copy of a store with obs changed; returns its path."""
    cells = ad.read_zarr(source)[rows]
    obs = change(cells.obs.drop(columns="size_factor").copy())
    names = [name for name in ("cell_type", "donor") if name in obs and not obs[name].isna().any()]
    with AtlasWriter(path, pd.DataFrame(index=cells.var_names), labels=names) as writer:
        writer.append(cells.X, obs)
        writer.close()
    return path


def test_the_store_says_where_each_cell_comes_from(translated, tiny_atlas, model):
    out, summary = translated
    cells, real = ad.read_zarr(out), ad.read_zarr(tiny_atlas)
    donor = model.labels["donor"][0]
    assert summary["cells"] == len(cells) == len(real)
    np.testing.assert_array_equal(cells.obs["source_row"], np.arange(len(real)))
    assert cells.obs["source_donor"].astype(str).tolist() == real.obs["donor"].astype(str).tolist()
    assert set(cells.obs["donor"]) == {donor}
    for kept in ("cell_type", "split"):
        assert cells.obs[kept].astype(str).tolist() == real.obs[kept].astype(str).tolist()
    assert cells.obs["is_generated"].all()
    assert cells.obs_names[7] == "translated-7"
    assert list(cells.var_names) == list(real.var_names)
    assert cells.X.dtype.kind == "u"
    atlas = open_atlas(out)
    assert atlas.labels == ["cell_type", "donor"]
    assert atlas.card["notes"] == [f"translated by CFGen to donor={donor}"]
    generation = json.loads(cells.uns["generation"])
    assert generation["plan"]["to"] == {"donor": donor}
    assert generation["sha256"] == summary["sha256"]
    assert not Path(f"{out}.parts").exists()


def test_depth_is_the_cells_own(translated, tiny_atlas):
    """The mean of the negative binomial is the cell's size factor, so totals scatter around it."""
    before, after = ad.read_zarr(tiny_atlas).obs["size_factor"], ad.read_zarr(translated[0]).obs["size_factor"]
    assert np.corrcoef(np.log(before), np.log(after))[0, 1] > 0.5
    assert after.mean() == pytest.approx(before.mean(), rel=0.05)


def latents(model, atlas, plan, after=None):
    rows = source_rows(atlas, plan.split, plan.where)[:200]
    counts = atlas.read(rows)
    before, target = source_and_target(model, atlas, plan, rows)
    dense = model.autoencoder.dense({"rna": counts})
    with torch.inference_mode():
        z = translate_latents(model, plan, dense, counts.row_sums(), before, target if after is None else before)
        encoded = model.autoencoder.encode(dense, torch.from_numpy(counts.row_sums().astype(np.float32)))
    return z, encoded


def test_there_and_back_under_the_own_label_is_the_cell(model, atlas):
    plan = plan_translation(
        model, atlas, {"donor": model.labels["donor"][0]}, sampling=Sampling(solver="rk4", steps=40)
    )
    back, encoded = latents(model, atlas, plan, after="own")
    assert (back - encoded).abs().max() < 1e-3
    other, _ = latents(model, atlas, plan)
    moved = (other - encoded).norm(dim=1)
    own = atlas.codes("donor")[:200] == 0
    assert moved[own].max() < 2e-3, "cells of the target stay"
    assert moved[~own].mean() > 1e-2, "the others move"


def test_the_way_to_noise_is_dopri5s(model, atlas):
    """Fixed steps against the paper's adaptive solver."""
    to = {"donor": model.labels["donor"][1]}
    fine, _ = latents(model, atlas, plan_translation(model, atlas, to, sampling=Sampling(solver="rk4", steps=40)))
    exact, _ = latents(model, atlas, plan_translation(model, atlas, to, sampling=Sampling(solver="dopri5")))
    assert (fine - exact).abs().max() < 5e-3


def test_guidance_weighs_the_way(model, atlas):
    to = {"donor": model.labels["donor"][0]}
    z = [
        latents(
            model, atlas, plan_translation(model, atlas, to, sampling=Sampling(guidance={"donor": w, "cell_type": 1.0}))
        )[0]
        for w in (1, 3)
    ]
    assert (z[0] - z[1]).abs().max() > 1e-3


def test_workers_make_the_same_bytes(translated, tiny_run, tiny_atlas, tmp_path):
    donor = open_atlas(tiny_atlas).categories("donor")[0]
    options = {"shard_size": 130, "seed": 2}
    threads = translate(tiny_run, tiny_atlas, tmp_path / "a.zarr", {"donor": donor}, workers=3, **options)
    assert threads["sha256"] == translated[1]["sha256"]
    assert threads["scores"] == translated[1]["scores"]
    other = translate(tiny_run, tiny_atlas, tmp_path / "b.zarr", {"donor": donor}, shard_size=130, seed=3)
    assert other["sha256"] != threads["sha256"]


@pytest.mark.slow  # as for generation in generation/test_workers.py
def test_actors_make_the_same_bytes(ray_local, translated, tiny_run, tiny_atlas, tmp_path):
    donor = open_atlas(tiny_atlas).categories("donor")[0]
    actors = translate(
        tiny_run, tiny_atlas, tmp_path / "c.zarr", {"donor": donor}, shard_size=130, seed=2, ray="local", workers=2
    )
    assert actors["sha256"] == translated[1]["sha256"]


def test_an_interrupted_translation_is_finished(translated, model, tiny_run, tiny_atlas, tmp_path):
    """Two shards are there, one of them damaged: the rest is made, the damaged one again."""
    out, donor = tmp_path / "cells.zarr", model.labels["donor"][0]
    source = open_atlas(tiny_atlas)
    plan = plan_translation(model, source, {"donor": donor}, sampling=Sampling(shard_size=130, seed=2))
    parts = open_parts(out, {"plan": plan.to_dict(), "kind": "translation"}, False)
    for shard in (0, 3):
        write_part(model, shard, plan, Ledger(parts, plan.digest), partial(translate_shard, atlas=str(tiny_atlas)))
    file = Path(parts / "shard-000003.npz")
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    with pytest.raises(BadInput, match=r"holds an interrupted generation: `resume=True` finishes it"):
        translate(tiny_run, tiny_atlas, out, {"donor": donor}, shard_size=130, seed=2)
    with pytest.raises(BadInput, match="holds shards of another plan"):
        translate(tiny_run, tiny_atlas, out, {"donor": model.labels["donor"][1]}, shard_size=130, seed=2, resume=True)
    summary = translate(tiny_run, tiny_atlas, out, {"donor": donor}, shard_size=130, seed=2, resume=True)
    assert (summary["shards_kept"], summary["shards_made"]) == (2, plan.n_shards - 2)
    assert open_atlas(out).fingerprint == open_atlas(translated[0]).fingerprint
    again = translate(tiny_run, tiny_atlas, out, {"donor": donor}, shard_size=130, seed=2, resume=True)
    assert again["scores"] == summary["scores"]
    with pytest.raises(BadInput, match=r"exists already$"):
        translate(tiny_run, tiny_atlas, out, {"donor": donor}, shard_size=130, seed=2)


def test_scores_of_the_cells_themselves(atlas, model, translated):
    """Before is the same as after when nothing was changed; target distances leave the target's own cells out."""
    plan = plan_translation(model, atlas, {"donor": model.labels["donor"][0]}, sampling=Sampling(seed=2))
    scores = score_translation(atlas, atlas, plan, "cell_type")
    assert scores["before"] == scores["after"]
    assert scores["cells"] == atlas.n_cells
    assert set(scores["before"]) == {
        "batch_asw", "ilisi", "kbet", "label_asw", "label_purity", "label_ari", "label_nmi", "target_w2", "target_mmd"
    }  # fmt: skip
    written = json.loads(Path(f"{translated[0]}.scores.json").read_text())
    assert len(written.pop("checksum")) == 64
    assert written == translated[1]["scores"]
    assert written["before"] == scores["before"]


def test_a_split_alone(tiny_run, atlas, tiny_atlas, tmp_path, model):
    translate(tiny_run, tiny_atlas, tmp_path / "t.zarr", {"donor": model.labels["donor"][1]}, split="test")
    cells = ad.read_zarr(tmp_path / "t.zarr")
    np.testing.assert_array_equal(cells.obs["source_row"], atlas.rows(split="test"))
    assert set(cells.obs["split"]) == {"test"}


def test_labels_that_do_not_count_may_be_missing_or_unknown(tiny_run, tiny_atlas, tmp_path, model):
    """With guidance on donor alone no cell type is needed; without the translated column nothing is mixed."""

    def change(obs):
        obs["cell_type"] = obs["cell_type"].cat.rename_categories({model.labels["cell_type"][0]: "new"})
        obs.loc[obs.index[3], "cell_type"] = np.nan
        return obs

    source = rewritten(tiny_atlas, tmp_path / "new.zarr", change)
    to = {"donor": model.labels["donor"][0]}
    summary = translate(tiny_run, source, tmp_path / "out.zarr", to, guidance={"donor": 1.0}, label="cell_type")
    cells, real = ad.read_zarr(tmp_path / "out.zarr"), ad.read_zarr(source)
    assert cells.obs["cell_type"].isna().sum() == 1
    assert cells.obs["cell_type"].astype(str).tolist() == real.obs["cell_type"].astype(str).tolist()
    assert open_atlas(tmp_path / "out.zarr").labels == ["donor"], "a column with gaps is no label column"
    assert summary["scores"]["cells"] == len(cells) - 1
    with pytest.raises(BadInput, match=r"obs column 'cell_type' has 1 missing values; expected a label for each cell"):
        translate(tiny_run, source, tmp_path / "no.zarr", to)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": {"dono": "d"}}, "to: the model was not trained on 'dono', did you mean 'donor'?"),
        ({"to": {}}, "to: no attribute given, expected NAME=VALUE"),
        ({"to": {"donor": "donor_99"}}, "donor: unknown category 'donor_99', did you mean 'donor_"),
        ({"label": "celltype"}, "no obs column 'celltype', did you mean 'cell_type'?"),
        ({"label": "donor"}, "label: 'donor' is translated itself; expected a column that must be kept"),
        ({"split": "tests"}, "split: unknown 'tests', did you mean 'test'?"),
        ({"guidance": {"cell_type": 1.0}}, "guidance of donor is 0: translation to donor="),
        ({"guidance": {"batch": 1.0}}, "guidance for 'batch', but the model has no such attribute"),
        ({"solver": "eul"}, "unknown solver 'eul', did you mean 'euler'?"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"seed": -1}, "seed is -1, expected 0 to 2**63 - 1"),
        ({"shard_size": 0}, "shard size is 0, expected at least 1"),
        ({"workers": 0}, "workers is 0, expected at least 1"),
    ],
)
def test_impossible_requests(tiny_run, tiny_atlas, tmp_path, model, arguments, message):
    to = arguments.pop("to", {"donor": model.labels["donor"][0]})
    with pytest.raises(BadInput) as error:
        translate(tiny_run, tiny_atlas, tmp_path / "no.zarr", to, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_cells_that_the_model_does_not_fit(tiny_run, tiny_atlas, tmp_path, model):
    from data_loaders import simulate

    to = {"donor": model.labels["donor"][0]}
    simulate(tmp_path / "genes.zarr", cells=100, genes=90, types=3, donors=2, density=0.3, seed=1)
    with pytest.raises(BadInput, match=r"its 90 genes are not the 120 of the model \(they differ from gene 90 on\)"):
        translate(tiny_run, tmp_path / "genes.zarr", tmp_path / "no.zarr", to)
    first = model.labels["donor"][0]
    renamed = rewritten(
        tiny_atlas, tmp_path / "r.zarr", lambda obs: obs.assign(donor=obs["donor"].cat.rename_categories({first: "dx"}))
    )
    with pytest.raises(BadInput, match=r"obs column 'donor' has 'dx', which the model does not know"):
        translate(tiny_run, renamed, tmp_path / "no.zarr", to)
    dropped = rewritten(tiny_atlas, tmp_path / "d.zarr", lambda obs: obs.drop(columns="donor"))
    with pytest.raises(BadInput, match=r"d.zarr: no obs column 'donor'"):
        translate(tiny_run, dropped, tmp_path / "no.zarr", to)
    rows = np.flatnonzero(ad.read_zarr(tiny_atlas).obs["split"] == "train")
    trained = rewritten(tiny_atlas, tmp_path / "t.zarr", lambda obs: obs, rows)
    with pytest.raises(BadInput, match=r"t.zarr: no test cells to translate"):
        translate(tiny_run, trained, tmp_path / "no.zarr", to, split="test")


def test_a_category_that_was_never_trained_is_refused(tiny_atlas, tmp_path, model):
    seen = model.combinations[:, 1] == 0
    partial = CFGen(**{**vars(model), "combinations": model.combinations[seen], "counts": model.counts[seen]})
    donor = model.labels["donor"][1]
    with pytest.raises(BadInput, match=f"donor: no training cell was '{donor}', so the model has not learned it"):
        translate(partial, tiny_atlas, tmp_path / "no.zarr", {"donor": donor})
    with pytest.raises(BadInput, match=f"donor: no training cell was '{donor}'"):  # cells of it cannot be carried
        translate(partial, tiny_atlas, tmp_path / "no.zarr", {"donor": model.labels["donor"][0]})


def test_an_atlas_that_changes_meanwhile_is_noticed(tiny_atlas, tmp_path, model):
    shutil.copytree(tiny_atlas, tmp_path / "moving.zarr")
    source = open_atlas(tmp_path / "moving.zarr")
    plan = plan_translation(model, source, {"donor": model.labels["donor"][0]})
    shutil.rmtree(tmp_path / "moving.zarr")
    rewritten(tiny_atlas, tmp_path / "moving.zarr", lambda obs: obs, np.arange(50))
    with pytest.raises(BadInput, match="holds other cells than when the translation was planned"):
        translate_shard(model, 0, plan, str(tmp_path / "moving.zarr"))


def test_the_command_shows_both_sides(tiny_run, tiny_atlas, tmp_path, capsys, model):
    command = ["translate", tiny_run, tiny_atlas, tmp_path / "cells.zarr", "--to", f"donor={model.labels['donor'][0]}"]
    assert main([*map(str, command), "--split", "test", "--guidance", "donor=2,cell_type=1"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "iLISI" in shown
    assert "cells/s" in shown
    assert main([*map(str, command[:4]), "--to", "donor"]) == 2
    assert "--to has 'donor', expected NAME=VALUE" in capsys.readouterr().err


def test_generated_cells_can_be_translated(tiny_run, tmp_path, model):
    generate(tiny_run, tmp_path / "made.zarr", 80, seed=1)
    translate(tiny_run, tmp_path / "made.zarr", tmp_path / "cells.zarr", {"donor": model.labels["donor"][1]})
    assert open_atlas(tmp_path / "cells.zarr").n_cells == 80


def test_a_translation_in_a_bucket_has_the_bytes_of_one_on_a_disk(translated, bucket, tiny_run, tiny_atlas, capsys):
    bucket.put_folder("run/bundle", tiny_run / "bundle")
    bucket.put_folder("atlas.zarr", tiny_atlas)
    donor = open_atlas(tiny_atlas).categories("donor")[0]
    words = ["--to", f"donor={donor}", "--shard-size", "130", "--seed", "2"]
    run, atlas, out = (f"{bucket.url}/{name}" for name in ("run", "atlas.zarr", "cells.zarr"))
    assert main(["translate", run, atlas, out, *words]) == 0
    assert translated[1]["sha256"] in capsys.readouterr().out
    files = {file.relative_to(translated[0]).as_posix(): file for file in translated[0].rglob("*") if file.is_file()}
    objects = bucket.keys("cells.zarr/")
    assert objects == sorted(f"cells.zarr/{name}" for name in files)
    differ = {name for name, file in files.items() if bucket.read(f"cells.zarr/{name}") != file.read_bytes()}
    assert differ <= {"uns/atlas_card/c", "uns/atlas_files/c"}, "the card says where the real cells are"
    beside = translated[0].with_name(translated[0].name + ".scores.json")
    assert bucket.read("cells.zarr.scores.json") == beside.read_bytes()
    assert bucket.keys("cells.zarr.parts") == []
