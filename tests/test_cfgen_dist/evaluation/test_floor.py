"""The floor is a matter of the real cells alone, and what generated cells lack is said."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from evaluation_data import same
from scipy import sparse

from cfgen_dist.cli import main
from cfgen_dist.evaluation import evaluate, stages
from cfgen_dist.evaluation.metrics.catalogue import metrics_of
from cfgen_dist.evaluation.verdict import needs_types, sees_absence
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

SIZES = {"T": 0.43, "B": 0.2, "NK": 0.15, "mono": 0.1, "DC": 0.07, "HSC": 0.05}
GENES = 150
OPTIONS = {"floor_sets": 3, "sets": 2}


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """The forest is the slow part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 15)
        yield


def law():
    """Means (types, genes) and two programmes that genes of all types follow."""
    rng = np.random.default_rng(7)
    return np.exp(rng.normal(-0.5, 0.8, (len(SIZES), GENES))), rng.normal(0, 0.5, (2, GENES))


def draw(n_cells, seed, *, crude=False, ambient=0.0):
    """Cells of the law: AnnData. `crude` keeps the means of the types alone; `ambient` is the share of stray counts."""
    rng = np.random.default_rng(seed)
    means, programmes = law()
    kinds = rng.choice(len(SIZES), n_cells, p=list(SIZES.values()))
    expected = means[kinds]
    if not crude:
        expected = expected * np.exp(rng.normal(0, 1, (n_cells, 2)) @ programmes) * rng.gamma(6, 1 / 6, (n_cells, 1))
    mixture = list(SIZES.values()) @ means
    depth = expected.sum(axis=1, keepdims=True)
    expected = (1 - ambient) * expected + ambient * depth * mixture / mixture.sum()
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.array(list(SIZES))[kinds])})
    obs.index = [f"{seed}-{i}" for i in range(n_cells)]
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(expected).astype(np.int32)), obs, var)


def of_types(cells, *kinds):
    return cells[cells.obs["cell_type"].isin(kinds).to_numpy()].copy()


@pytest.fixture(scope="module")
def real():
    cells = draw(1500, 0)
    cells.obs["split"] = pd.Categorical(np.where(np.random.default_rng(1).random(1500) < 0.2, "test", "train"))
    return cells


@pytest.fixture(scope="module")
def good():
    return draw(2000, 1)


@pytest.fixture(scope="module")
def whole(real, good):
    return evaluate(real, good, **OPTIONS)


def verdicts(result):
    return {key: row["verdict"] for key, row in result["metrics"].items()}


def floors(result):
    """Without that of the composition, which is of a store of as many cells as were generated."""
    return {key: row["floor"] for key, row in result["metrics"].items() if key != "composition"}


def row_of(result, kind):
    return next(row for row in result["types"] if row["type"] == kind)


ABSENT = {metric.key for metric in metrics_of() if sees_absence(metric)}


def test_new_cells_of_the_same_law_are_at_the_floor(whole):
    found = list(verdicts(whole).values())
    assert found.count("off") <= 1
    assert found.count("at") > 0.8 * len(found)
    assert whole["warnings"] == []
    assert whole["lacking"] == {"n_types": 6, "missing": [], "thin": {}, "no_floor": []}
    assert whole["verdict"][0].endswith("off it.")


def test_cells_of_one_type_alone_do_not_pass(real, good, whole):
    """They did: the floor left out what the generator left out, and 10-NN F1 was 0.50 for perfect cells."""
    result = evaluate(real, of_types(good, "B"), **OPTIONS)
    assert floors(result) == floors(whole), "the floor is that of the real cells, whatever was generated"
    assert "5 of 6 types are missing: DC, HSC, NK, T, mono." in result["verdict"][0]
    assert all(verdicts(result)[key] == "off" for key in ABSENT)
    row, alone = result["metrics"]["knn_f1"], row_of(result, "B")["generated"]["knn_f1"]
    assert row["generated"]["mean"] == pytest.approx(alone / 6), "types that are lacking count as 0"
    assert alone > 0.9
    assert row_of(result, "T")["state"] == "missing"
    assert row_of(result, "T")["generated"] is None
    assert row_of(result, "T")["floor"] is not None


def test_the_largest_type_is_missed(real, good, whole):
    result = evaluate(real, of_types(good, *(set(SIZES) - {"T"})), **OPTIONS)
    assert floors(result) == floors(whole)
    assert "1 of 6 types is missing: T." in result["verdict"][0]
    assert all(verdicts(result)[key] == "off" for key in ABSENT)


def test_a_thin_type_is_named(real, good, whole):
    few = ad.concat([of_types(good, *(set(SIZES) - {"T"})), of_types(good, "T")[:20]])
    result = evaluate(real, few, **OPTIONS)
    wanted = row_of(result, "T")["cells_set"]
    assert f"1 of 6 types is thin: T (20 of {wanted} cells)." in result["verdict"][0]
    assert floors(result) == floors(whole)
    assert all(verdicts(result)[key] == "off" for key in ABSENT)
    assert result["n_sets"]["generated"] == 1


def test_a_type_with_few_training_cells_has_sets_of_few_cells(real):
    """Five training cells stood against 149 generated ones, and a crude sampler passed."""
    split = real.obs["split"].astype(str).to_numpy()
    rows = np.flatnonzero((real.obs["cell_type"] == "T").to_numpy())
    split[rows] = "test"
    split[rows[:5]] = "train"
    lopsided = real.copy()
    lopsided.obs["split"] = pd.Categorical(split)
    result = evaluate(lopsided, draw(2000, 2, crude=True), **OPTIONS)
    row = row_of(result, "T")
    assert row["cells_set"] == row["floor"]["cells"] == row["generated"]["cells"] == 5
    assert any("Fewer training than test cells" in note and f"T (5 for {row['cells_test']})" in note
               for note in result["notes"])  # fmt: skip
    found = verdicts(result)
    assert found["auc_genes"] == found["correlation_error"] == found["size_factor"] == "off"
    assert list(found.values()).count("off") > len(found) / 3


def test_of_an_augmented_atlas_the_generated_cells_are_scored(real, good, whole, tmp_path):
    """Sixty cells of noise passed, hidden among the real ones."""
    rng = np.random.default_rng(3)
    noise = ad.AnnData(sparse.csr_matrix(rng.poisson(1.0, (60, GENES)).astype(np.int32)), good.obs[:60], good.var)
    noise.obs_names = [f"noise-{i}" for i in range(60)]
    mixed = ad.concat([real, noise], join="outer")
    mixed.obs["is_generated"] = np.repeat([False, True], [real.n_obs, 60])
    result = evaluate(real, mixed, **OPTIONS)
    assert result["provenance"]["cells"]["generated"] == [60]
    assert list(verdicts(result).values()).count("off") > 0.7 * len(result["metrics"])
    assert any("1,500 real cells of generated set 1" in note for note in result["notes"])
    mixed.obs["is_generated"] = pd.Categorical(mixed.obs["is_generated"].astype(str))
    mixed.obs["split"] = mixed.obs["split"].astype(object).where(mixed.obs["split"].notna(), "train")
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    assert evaluate(real, tmp_path / "mixed.h5ad", **OPTIONS)["metrics"] == result["metrics"]
    as_real = evaluate(tmp_path / "mixed.h5ad", good, **OPTIONS)
    assert as_real["metrics"] == whole["metrics"], "nor are generated cells taken for real ones"


def test_stray_counts_are_seen(real):
    result = evaluate(real, draw(2000, 4, ambient=0.3), **OPTIONS)
    found = verdicts(result)
    assert found["mmd_rbf"] == found["fold_slope"] == found["auc_genes"] == "off"


def test_a_type_without_training_cells_has_no_floor(real, good):
    split = real.obs["split"].astype(str).to_numpy()
    split[(real.obs["cell_type"] == "NK").to_numpy()] = "test"
    unseen = real.copy()
    unseen.obs["split"] = pd.Categorical(split)
    result = evaluate(unseen, good, **OPTIONS)
    row = row_of(result, "NK")
    assert row["state"] == "no floor"
    assert row["floor"] is None
    assert row["generated"]["w2"] > 0
    assert result["lacking"]["no_floor"] == ["NK"]
    assert result["verdict"][-1] == "Without training cells, so without a floor and a verdict: NK."
    kinds = [row["type"] for row in result["types"] if row["state"] == "compared"]
    for side in ("generated", "floor"):
        mean = np.mean([row_of(result, kind)[side]["w2"] for kind in kinds])
        assert result["metrics"]["w2"][side]["mean"] == pytest.approx(mean), "left out of both means"
    without = evaluate(of_types(unseen, *kinds), of_types(good, *kinds), **OPTIONS)
    assert without["metrics"]["w2_all"]["floor"]["mean"] == pytest.approx(
        result["metrics"]["w2_all"]["floor"]["mean"], rel=0.05
    )


def test_cells_without_labels_are_compared_all_at_once(real, good, whole, tmp_path):
    bare = good.copy()
    del bare.obs["cell_type"]
    result = evaluate(real, bare, tmp_path / "report", embedding="pca", control=True, **OPTIONS)
    assert list(result["metrics"]) == [metric.key for metric in metrics_of() if not needs_types(metric)]
    assert list(verdicts(result).values()).count("off") <= 2  # the composition of this store is another by chance
    assert result["warnings"] == [
        "No 'cell_type' in generated set 1: compared are all cells together, without looking at types."
    ]
    assert result["metrics"]["zeros"]["floor"] == whole["metrics"]["zeros"]["floor"], "the same training cells"
    assert result["types"] == []
    page = (tmp_path / "report" / "report.html").read_text()
    assert result["warnings"][0] in page.replace("&#39;", "'")
    assert "Type by type" not in page
    nowhere = good.copy()
    nowhere.obs["cell_type"] = pd.Categorical([None] * good.n_obs)
    assert "in generated set 1, generated set 2:" in evaluate(real, [bare, nowhere], **OPTIONS)["warnings"][0]
    crude = draw(2000, 2, crude=True)
    del crude.obs["cell_type"]
    assert verdicts(evaluate(real, crude, **OPTIONS))["auc_genes"] == "off"
    (tmp_path / "markers.csv").write_text("type,feature\nT,g0\n")
    with pytest.raises(BadInput, match="`markers`: No 'cell_type' in generated set 1"):
        evaluate(real, bare, markers=tmp_path / "markers.csv")


def test_an_atlas_without_labels_has_a_floor(real, good):
    bare = real.copy()
    del bare.obs["cell_type"]
    result = evaluate(bare, good, **OPTIONS)
    assert list(verdicts(result).values()).count("off") <= 1
    assert result["warnings"] == ["real has no label column: compared are all cells together, without types."]


@pytest.mark.parametrize("kind", ["pooled", "without floor", "mixed"])
def test_workers_that_open_the_cells_again_see_the_same(real, good, tmp_path, monkeypatch, kind):
    """As actors on Ray do, in processes of their own."""
    one, other = real.copy(), good.copy()
    if kind == "pooled":
        del other.obs["cell_type"]
    elif kind == "without floor":
        one.obs["split"] = one.obs["split"].where((one.obs["cell_type"] != "NK").to_numpy(), "test")
    else:
        other = ad.concat([one, other], join="outer")
        other.obs["is_generated"] = np.repeat([False, True], [one.n_obs, good.n_obs])
        other.obs["cell_type"] = pd.Categorical(other.obs["cell_type"])
        del other.obs["split"]
    one.write_h5ad(tmp_path / "one.h5ad")
    other.write_h5ad(tmp_path / "other.h5ad")
    arguments = (tmp_path / "one.h5ad", tmp_path / "other.h5ad")
    options = OPTIONS | {"control": True, "sets": 1, "floor_sets": 1}
    here = evaluate(*arguments, **options)
    setup = stages.worker_setup
    monkeypatch.setattr(stages, "worker_setup", lambda work, origins, ray: setup(work, origins, "elsewhere"))
    there = evaluate(*arguments, shard_size=100, **options)
    assert all(same(there[part], here[part]) for part in ("metrics", "types", "verdict", "notes"))


def test_what_is_missing_is_said_on_the_terminal_and_on_the_page(real, good, tmp_path, capsys):
    real.write_h5ad(tmp_path / "real.h5ad")
    of_types(good, "B", "T").write_h5ad(tmp_path / "made.h5ad")
    out = tmp_path / "report"
    arguments = [str(tmp_path / "real.h5ad"), str(tmp_path / "made.h5ad"), "--out", str(out), "--embedding", "pca"]
    assert main(["evaluate", *arguments, "--floor-sets", "1", "--sets", "1"]) == 0
    said = "4 of 6 types are missing: DC, HSC, NK, mono."
    assert said in capsys.readouterr().out.splitlines()[0]
    page = (out / "report.html").read_text()
    assert said in page
    assert page.count('<span class="tag off">missing</span>') == 4
