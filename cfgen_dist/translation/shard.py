"""One shard of a translation: real cells to noise under their own labels, and back under other labels (CFGen, 4.3).

A latent z_1 is carried from t = 1 to t = 0 by the field of its own labels, and the noise that comes out from t = 0 to
t = 1 by the field of the labels wanted. What the labels do not explain of a cell is kept, in the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from cfgen_dist.generation.labels import check_attribute, check_genes, model_codes
from cfgen_dist.generation.options import DEFAULTS, Sampling, settle
from cfgen_dist.generation.plan import Sharded
from cfgen_dist.generation.shard import Rows, stacked
from cfgen_dist.generation.unseen import Borrowed, Lender, carry, choose_way
from cfgen_dist.generation.weights import acting_codes, refuse_unseen, weight_of_each
from cfgen_dist.model.multimodal import branches
from data_loaders import Atlas, open_atlas
from data_loaders.card import SPLITS
from data_loaders.errors import BadInput, nearest
from data_loaders.seeds import Generation, generator
from data_loaders.types import Bools, Floats, Ints

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

SLICE = 1 << 20  # cells whose labels are checked at a time


@dataclass(frozen=True)
class TranslationPlan(Sharded):
    """A translation, complete: with the bundle and the atlas it determines every count.

    Attributes
    ----------
    bundle : str
        Digest of the model.
    atlas : str
        Fingerprint of the cells.
    split : str or None
        Which cells; None is all.
    n_cells : int
    to : dict of str to str
        Attribute → category wanted.
    weights : list of float
        Guidance weight of each attribute, both ways; one weight for a joint-conditioned model.
    solver : str
    steps, batch_size, shard_size, seed, device
        As in `cfgen_dist.generation.plan.Plan`.
    unseen : {"compose", "transfer"}
        How cells get labels that no training cell had together.
    where : dict of str to str
        Obs column → category of the cells to translate; all cells without any.
    """

    bundle: str
    atlas: str
    split: str | None
    n_cells: int
    to: dict[str, str]
    weights: list[float]
    solver: str
    steps: int
    batch_size: int
    shard_size: int
    seed: int
    device: str = "cpu"
    unseen: str = "compose"  # also of plans made before there was another way
    where: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values; without those that plans did not have at first, where they say nothing."""
        usual = {"unseen": "compose", "where": {}}
        return {key: value for key, value in super().to_dict().items() if key not in usual or value != usual[key]}

    def shard_bounds(self, shard: int) -> tuple[int, int]:
        """First and last + 1 of the cells of a shard, in the list of the cells to translate."""
        return self.n_cells * shard // self.n_shards, self.n_cells * (shard + 1) // self.n_shards

    def shard_cells(self, shard: int) -> int:
        """Cells of a shard."""
        start, end = self.shard_bounds(shard)
        return end - start


def plan_translation(
    model: TrainedModel,
    atlas: Atlas,
    to: Mapping[str, str],
    *,
    split: str | None = None,
    where: Mapping[str, str] | None = None,
    sampling: Sampling = DEFAULTS,
) -> TranslationPlan:
    """Resolve a request against a model and an atlas.

    Parameters
    ----------
    model : TrainedModel
    atlas : Atlas
    to : dict of str to str
        Attribute → category wanted.
    split : {"train", "val", "test"}, optional
    where : dict of str to str, optional
        Obs column → category: which cells; all by default.
    sampling : Sampling
        Its law of size factors is not used: cells keep their own.

    Returns
    -------
    TranslationPlan

    Raises
    ------
    BadInput
        Other genes than the model's; an attribute, category or split that does not exist, was never trained, or has
        weight 0; cells without a label that is needed; no cells; a solver or number that cannot be.
    """
    settled = settle(sampling, model)
    check_genes(atlas, model)
    for name, features in model.features.items():
        if name not in atlas.modalities or list(atlas.features(name).index) != list(features):
            raise BadInput(f"{atlas.name}: no modality {name!r} with the {len(features):,} features of the model")
    if split is not None and split not in SPLITS:
        raise BadInput(f"split: unknown {split!r}, {nearest(split, [*SPLITS, 'all'])}")
    if not to:
        raise BadInput("to: no attribute given, expected NAME=VALUE, such as batch=b1")
    for name, category in to.items():
        check_attribute(model, name, "to")
        model.codes_of(name, category)
        if weight_of_each(model, settled.weights)[name] == 0:
            raise BadInput(f"guidance of {name} is 0: translation to {name}={category} needs another weight")
    where = dict(where or {})
    rows = source_rows(atlas, split, where)
    if not len(rows):
        also = "".join(f", {name}={category}" for name, category in where.items())
        raise BadInput(f"{atlas.name}: no {split or ''} cells to translate{also}")
    plan = TranslationPlan(
        model.digest, atlas.fingerprint, split, len(rows), dict(to), settled.weights, settled.solver, settled.steps,
        settled.batch_size, settled.shard_size, settled.seed, settled.device, where=where,
    )  # fmt: skip
    wanted: list[Ints] = []
    for start in range(0, len(rows), SLICE):
        before, after = source_and_target(model, atlas, plan, rows[start : start + SLICE])
        refuse_unseen(model, after[:1], plan.weights)
        refuse_unseen(model, before, plan.weights)
        wanted.append(np.unique(after, axis=0))
    asked = np.unique(np.concatenate(wanted), axis=0)
    return replace(plan, unseen=choose_way(model, asked, np.ones(len(asked), np.int64), sampling.unseen))


def source_and_target(model: TrainedModel, atlas: Atlas, plan: TranslationPlan, rows: Ints) -> tuple[Ints, Ints]:
    """Labels of cells before and after translation, as codes of the model, two int64 arrays (n, K).

    Raises
    ------
    BadInput
        A label that is needed, for its guidance weight or for theta, is missing or unknown to the model.
    """
    needed = {name for name, weight in weight_of_each(model, plan.weights).items() if weight}
    covariate = model.config.autoencoder.theta_covariate
    if covariate and covariate not in plan.to:
        needed.add(covariate)
    before = model_codes(atlas, model, rows, needed)
    after = before.copy()
    for name, category in plan.to.items():
        after[:, list(model.labels).index(name)] = model.codes_of(name, category)[0]
    return before, after


def source_rows(atlas: Atlas, split: str | None, where: Mapping[str, str]) -> Ints:
    """Rows of the cells of a split, all of them for None, that have the categories of `where`, ascending int64 (n,)."""
    return atlas.rows(split=split, **where)


@lru_cache(maxsize=4)
def _opened(path: str, fingerprint: str, split: str | None, where: tuple[tuple[str, str], ...]) -> tuple[Atlas, Ints]:
    """The atlas at a path and its rows of a split, found once a process; BadInput when it holds other cells by now."""
    atlas = open_atlas(path)
    if atlas.fingerprint != fingerprint:
        raise BadInput(f"{path}: holds other cells than when the translation was planned")
    return atlas, source_rows(atlas, split, dict(where))


@torch.inference_mode()
def translate_shard(
    model: TrainedModel, shard: int, plan: TranslationPlan, atlas: str
) -> tuple[dict[str, sparse.csr_matrix], Ints]:
    """Translate the cells of a shard, each with its own size factor; a cell that lacks a modality still lacks it.

    Under labels that were never seen together, rna's size factor changes as it does in the cells that lend the change.

    Parameters
    ----------
    model : TrainedModel
    shard : int
    plan : TranslationPlan
    atlas : str
        Path of the cells.

    Returns
    -------
    counts : dict of str to scipy.sparse.csr_matrix (n, features), int32
        Modality → counts.
    codes : (n, K) int64 array
        Labels after translation.
    """
    source, rows = _opened(atlas, plan.atlas, plan.split, tuple(plan.where.items()))
    rows = rows[slice(*plan.shard_bounds(shard))]
    before, after = source_and_target(model, source, plan, rows)
    lent = None
    if plan.unseen == "transfer":
        uniform = generator(plan.seed, Generation.TRANSFER, shard).random(len(rows))
        lent = Lender(model).borrow(after, uniform, before)
    rng = generator(plan.seed, Generation.TRANSLATION, shard)
    networks = branches(model.autoencoder)
    seeds = {name: rng.integers(0, 2**64, len(rows), dtype=np.uint64) for name in networks}
    covariate = model.config.autoencoder.theta_covariate
    theta_category = after[:, list(model.labels).index(covariate)] if covariate else np.zeros(len(rows), np.int64)
    acting = acting_codes(model, plan.weights, after)
    blocks: dict[str, list[Rows]] = {name: [] for name in networks}
    for start in range(0, len(rows), plan.batch_size):
        batch = slice(start, start + plan.batch_size)
        counts = {name: source.read(rows[batch], name) for name in networks}
        sizes = {name: counts[name].row_sums() for name in networks}
        dense = model.autoencoder.dense(counts, model.device)
        borrowed = lent and lent.take(batch)
        z = translate_latents(model, plan, dense, sizes["rna"], before[batch], after[batch], borrowed)
        if borrowed:
            sizes["rna"] = sizes["rna"] * np.exp(borrowed.log_change)
        shifts = model.shifts(acting[batch])
        for name, network in networks.items():
            drawn = network.draw(z, sizes[name], theta_category[batch], seeds[name][batch], rng, shifts.get(name))
            blocks[name].append(_without(drawn, sizes[name] == 0))
    return {name: stacked(blocks[name], networks[name].n_genes) for name in networks}, after


def _without(rows: Rows, lacking: Bools) -> Rows:
    """Rows (data, indices, indptr) without the counts of those that lack the modality: it was not measured in them."""
    if not lacking.any():
        return rows
    data, indices, indptr = rows
    lengths = np.diff(indptr)
    keep = np.repeat(~lacking, lengths)
    return data[keep], indices[keep], np.concatenate([[0], np.cumsum(np.where(lacking, 0, lengths))])


def translate_latents(
    model: TrainedModel,
    plan: TranslationPlan,
    counts: Any,
    size_factor: Floats,
    before: Ints,
    after: Ints,
    lent: Borrowed | None = None,
) -> torch.Tensor:
    """Latents (B, D) tensor under the labels `after` of cells with labels `before`.

    Parameters
    ----------
    model : TrainedModel
    plan : TranslationPlan
    counts
        Dense, as `model.autoencoder.dense` gives them.
    size_factor : (B,) float64 array
    before, after : (B, K) int64 arrays
    lent : Borrowed, optional
        What cells borrow on the way to labels that were never seen together.
    """
    total = torch.from_numpy(size_factor.astype(np.float32)).to(model.device)
    log_total = total.clamp_min(1.0).log()
    z = model.velocity.standardise(model.autoencoder.encode(counts, total))
    how: dict[str, Any] = {"solver": plan.solver, "steps": plan.steps}
    z = carry(model, plan.weights, before, log_total, None, z, start=1.0, end=0.0, **how)
    z = carry(model, plan.weights, after, log_total, lent, z, start=0.0, end=1.0, **how)
    return model.velocity.restore(z)
