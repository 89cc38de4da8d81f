"""What guidance does: cells of one intersection of labels over a grid of weights, scored for aim and for diversity."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.bundle import CFGen, load_model
from cfgen_dist.evaluation.choice import Floor, Standing, keeps_structure, nearest_to_floor
from cfgen_dist.evaluation.folder import Contents, check_new, new_folder
from cfgen_dist.evaluation.summary import plain
from cfgen_dist.evaluation.trade_off import columns_of
from cfgen_dist.generation.labels import check_attribute, check_genes
from cfgen_dist.generation.memory import sample_in_memory
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.plan import Plan, make_plan
from cfgen_dist.guidance_sweep.plots import EMBEDDINGS, draw_cells, draw_scores
from cfgen_dist.guidance_sweep.scores import Target
from data_loaders import Atlas, open_atlas
from data_loaders.card import SPLITS
from data_loaders.errors import BadInput, nearest
from data_loaders.locks import alone
from data_loaders.progress import progress
from data_loaders.seeds import check_seed
from data_loaders.types import Floats, Ints, PathLike

CELLS = 500  # of each setting, as in the paper
MOST_SETTINGS = 200
OURS = Contents("guidance.json", ("guidance.csv", "cells.png", "scores.png"), "sweep")
NOT_SCORES = ("model", "weights", "measures", *(field.name for field in fields(Standing)))  # of a setting


@alone(remote=True)
def guide(
    bundle: PathLike | CFGen,
    atlas: PathLike,
    out: PathLike,
    sweep: Mapping[str, Sequence[float]],
    *,
    fix: Mapping[str, float] | None = None,
    target: Mapping[str, str] | None = None,
    joint: PathLike | CFGen | None = None,
    cells: int = CELLS,
    split: str = "test",
    embedding: str = "pca",
    measures: bool = True,
    solver: str | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Generate cells of one intersection of labels under a grid of guidance weights, and score them.

    Parameters
    ----------
    bundle : path-like or CFGen
        Trained with `flow.conditioning` single: its attributes can be composed.
    atlas : path-like
        Real cells with the genes of the model.
    out : path-like
        Folder to make, on a disk or in a bucket: `guidance.json`, `guidance.csv`, `cells.png`, `scores.png`.
    sweep : dict of str to sequence of float
        One or two attributes → the weights to try; of two, all pairs.
    fix : dict of str to float, optional
        Weights of other attributes. Those in neither have weight 0.
    target : dict of str to str, optional
        Category of each attribute in `sweep` and `fix`; by default the intersection with most real cells.
    joint : path-like or CFGen, optional
        A model with `flow.conditioning` joint, to compare with: its one weight is swept over all weights of `sweep`.
    cells : int
        Cells of each setting.
    split : {"train", "val", "test", "all"}
        The real cells to compare with.
    embedding : {"pca", "umap"}
        Of the picture of the cells.
    measures : bool
        Score every measure of an evaluation beside its floor, and choose by them; seconds a setting.
    solver, steps, seed
        As in `cfgen_dist.generation.options.Sampling`. All settings start from the same noise. An attribute with weight
        0 is drawn as observed, so that size factors follow what the setting asks for.

    Returns
    -------
    dict
        `settings` (one dict per setting: `model`, `weights`, the scores of `Target.score`, and beside the floor
        `measures`, every measure of an evaluation, `distances` of each to the floor in units of its spread, the largest
        of them as `worst`, of the measure `worst_measure`, their mean as `average`, and the standard errors
        `worst_error` and `average_error`), `chosen` (the number of the best setting, see `choose`), `floor` (the scores
        of `Target.score` of real cells of the target outside of `split`), `measures_floor` (`mean` and `sd` of every
        measure of these cells), `real` (`Target.purity`), `target`, `target_cells`, `cells`, `split`, `seed`. Without
        20 real cells outside of `split`, or `measures`, there is no floor: all that needs one is None or left out.

    Raises
    ------
    BadInput
        Unknown attributes or categories, more than two swept, too many settings, weights that are no numbers, too few
        real cells of the target, other genes, a model of the other conditioning, an output that exists.
    """
    model, source = load_model(bundle), open_atlas(atlas)
    joint_model = None if joint is None else load_model(joint)
    fix = dict(fix or {})
    check_new(out, OURS)
    check_seed(seed)
    _check(model, joint_model, source, sweep, fix, cells, split, embedding)
    rows = None if split == "all" else source.rows(split=split)
    reference = Target.fit(source, rows, _target(model, source, rows, [*sweep, *fix], target), seed, split)
    sampling = Sampling(solver=solver, steps=steps, seed=seed, shard_size=cells)
    grid = itertools.product(*sweep.values())
    settings = [("composed", model, dict(zip(sweep, weights, strict=True)) | fix) for weights in grid]
    if joint_model:
        swept = sorted({float(weight) for values in sweep.values() for weight in values})
        settings += [("joint", joint_model, dict.fromkeys(joint_model.labels, weight)) for weight in swept]
    plans = [_plan(owner, cells, weights, reference.labels, sampling) for _, owner, weights in settings]
    floor = reference.measures_floor(cells) if measures else None
    results, clouds = [], []
    with progress("guide", len(settings), "settings") as advance:
        for (kind, owner, weights), plan in zip(settings, plans, strict=True):
            made = sample_in_memory(owner, plan).X
            clouds.append(reference.project(made))
            beside_floor = _beside_floor(reference, made, floor, cells) if floor else {}
            results.append({"model": kind, "weights": weights} | reference.score(clouds[-1]) | beside_floor)
            advance(1)
    result = plain({
        "kind": "cfgen-dist guidance", "target": reference.labels, "target_cells": len(reference.pcs), "cells": cells,
        "split": split, "seed": seed, "sweep": {name: list(map(float, values)) for name, values in sweep.items()},
        "fix": fix, "settings": results, "real": reference.purity(), "floor": reference.floor(cells),
        "measures_floor": {"mean": floor.mean, "sd": floor.sd} if floor else None,
        "chosen": choose(results) if floor else None,
        "model": model.digest, "joint_model": joint_model.digest if joint_model else None,
    })  # fmt: skip
    _write(out, result, reference, clouds, embedding)
    return result


def guidance_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """The settings of a result as a DataFrame: model, one column per weight, the scores."""
    names = [*result["sweep"], *result["fix"]]
    rows = []
    for number, setting in enumerate(result["settings"]):
        weights = {f"w_{name}": setting["weights"].get(name) for name in names}
        scores = {key: value for key, value in setting.items() if key not in NOT_SCORES}
        rows.append({"model": setting["model"]} | weights | scores)
        if result["measures_floor"]:
            rows[-1] |= {"chosen": number == result["chosen"]} | columns_of(setting, "measured_")
    if result["floor"]:
        rows.append({"model": "real cells"} | result["floor"])
    return pd.DataFrame(rows)


def choose(settings: Sequence[Mapping[str, Any]]) -> int:
    """The number of the best of some settings, by how far every measure is from the floor.

    Of each model, settings whose correlation error is more than 0.05 above, or whose coverage is more than 0.02 below,
    that of its most faithful setting, whose weights are nearest to 1, are left out. Of the others those with the lowest
    worst distance to the floor, of these those with the lowest mean distance, each within one standard error; and of
    what is left the one whose weights are nearest to 1.
    """

    def unfaithful(number: int) -> float:
        return sum(abs(weight - 1) for weight in settings[number]["weights"].values())

    allowed = []
    for number, setting in enumerate(settings):
        same = [i for i, other in enumerate(settings) if other["model"] == setting["model"]]
        if keeps_structure(setting["measures"], settings[min(same, key=unfaithful)]["measures"]):
            allowed.append(number)
    best = nearest_to_floor(
        [Standing(**{field.name: settings[number][field.name] for field in fields(Standing)}) for number in allowed]
    )
    return min((allowed[i] for i in best), key=unfaithful)


def _beside_floor(target: Target, counts: sparse.csr_matrix, floor: Floor, cells: int) -> dict[str, Any]:
    """Every measure of generated cells, and how far they are from the floor."""
    sets = target.measures(counts, target.size(cells))
    measures = {key: float(np.mean([scores[key] for scores in sets])) for key in floor.mean}
    return {"measures": measures} | asdict(Standing.of(sets, floor))


def _plan(
    model: CFGen, cells: int, weights: Mapping[str, float], target: Mapping[str, str], sampling: Sampling
) -> Plan:
    """The plan of a setting; attributes without weight are drawn as observed."""
    asked = {name: value for name, value in target.items() if weights.get(name)}
    return make_plan(model, cells, labels=asked, sampling=replace(sampling, guidance=weights))


def _write(out: PathLike, result: dict[str, Any], reference: Target, clouds: Sequence[Floats], embedding: str) -> None:
    """Write the folder: whole, or not at all."""
    with new_folder(out, OURS) as built:
        (built / "guidance.json").write_text(json.dumps(result, indent=1, allow_nan=False))
        guidance_table(result).to_csv(built / "guidance.csv", index=False)
        draw_cells(built / "cells.png", result, reference, clouds, embedding)
        draw_scores(built / "scores.png", result)


def _check(
    model: CFGen,
    joint: CFGen | None,
    source: Atlas,
    sweep: Mapping[str, Sequence[float]],
    fix: Mapping[str, float],
    cells: int,
    split: str,
    embedding: str,
) -> None:
    """Refuse an impossible request before anything starts."""
    check_genes(source, model)
    for given, wanted in ((model, "single"), (joint, "joint")):
        if given is not None and given.config.flow.conditioning != wanted:
            raise BadInput(
                f"the {'' if wanted == 'single' else 'joint '}model was trained with flow.conditioning "
                f"{given.config.flow.conditioning}, expected {wanted}"
            )
    if not 1 <= len(sweep) <= 2:
        raise BadInput(f"sweep: {len(sweep)} attributes given, expected one or two")
    for what, names in (("sweep", sweep), ("fix", fix)):
        for name in names:
            check_attribute(model, name, what)
            if joint is not None:
                check_attribute(joint, name, what)
    both = next((name for name in sweep if name in fix), None)
    if both:
        raise BadInput(f"{both} is swept and fixed; expected one of the two")
    for name, weights in {**sweep, **{name: [weight] for name, weight in fix.items()}}.items():
        if not len(weights) or not all(map(math.isfinite, weights)):
            raise BadInput(f"weights of {name}: {list(weights)}, expected finite numbers")
    settings = math.prod(map(len, sweep.values()))
    if settings > MOST_SETTINGS:
        raise BadInput(f"sweep: {settings} settings, expected {MOST_SETTINGS} at most")
    if joint is not None:
        check_genes(source, joint)
    if cells < 10:
        raise BadInput(f"cells is {cells}, expected at least 10")
    for what, value, valid in (("split", split, (*SPLITS, "all")), ("embedding", embedding, EMBEDDINGS)):
        if value not in valid:
            raise BadInput(f"{what}: unknown {value!r}, {nearest(value, valid)}")


def _target(
    model: CFGen, source: Atlas, rows: Ints | None, names: Sequence[str], given: Mapping[str, str] | None
) -> dict[str, str]:
    """The intersection asked for, or else the one with most cells among `rows`; attribute → category."""
    for name in names:
        if name not in source.obs_columns:
            raise BadInput(f"{source.name}: no obs column {name!r}, {nearest(name, source.obs_columns)}")
    if given is not None:
        for name, value in given.items():
            if name not in names:
                raise BadInput(f"target: {name!r} is neither swept nor fixed, {nearest(name, names)}")
            model.codes_of(name, value)
            source.rows(**{name: value})
        missing = next((name for name in names if name not in given), None)
        if missing:
            raise BadInput(f"target: no category of {missing} given, such as {missing}={source.categories(missing)[0]}")
        return dict(given)
    keep = slice(None) if rows is None else rows
    codes = pd.DataFrame({name: source.small_codes(name)[keep] for name in names})
    codes = codes[(codes >= 0).all(axis=1)]
    if not len(codes):
        raise BadInput(f"{source.name}: no cells with {' and '.join(names)} to choose a target from")
    most = codes.value_counts().index[0]
    return {name: source.categories(name)[code] for name, code in zip(names, most, strict=True)}
