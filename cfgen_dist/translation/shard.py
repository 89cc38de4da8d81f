"""One shard of a translation: real cells to noise under their own labels, and back under other labels (CFGen, 4.3).

A latent z_1 is carried from t = 1 to t = 0 by the field of its own labels, and the noise that comes out from t = 0 to
t = 1 by the field of the labels wanted. What the labels do not explain of a cell is kept, in the noise.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from cfgen_dist.generation.labels import check_attribute, check_genes, model_codes
from cfgen_dist.generation.plan import SHARD_SIZE, check_settings, guidance_weights, refuse_unseen
from cfgen_dist.generation.shard import stacked
from cfgen_dist.model.guidance import PreparedVelocity, guided
from cfgen_dist.model.multimodal import branches
from cfgen_dist.model.solvers import integrate
from data_loaders import open_atlas
from data_loaders.card import SPLITS
from data_loaders.errors import BadInput, nearest
from data_loaders.seeds import Generation, generator

SLICE = 1 << 20  # cells whose labels are checked at a time


@dataclass(frozen=True)
class TranslationPlan:
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
    """

    bundle: str
    atlas: str
    split: str | None
    n_cells: int
    to: dict
    weights: list
    solver: str
    steps: int
    batch_size: int
    shard_size: int
    seed: int
    device: str = "cpu"

    @property
    def n_shards(self):
        """Shards in all."""
        return -(-self.n_cells // self.shard_size)

    def shard_bounds(self, shard):
        """First and last + 1 of the cells of a shard, in the list of the cells to translate."""
        return self.n_cells * shard // self.n_shards, self.n_cells * (shard + 1) // self.n_shards

    def shard_cells(self, shard):
        """Cells of a shard."""
        start, end = self.shard_bounds(shard)
        return end - start

    @cached_property
    def digest(self):
        """SHA-256 of the plan, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self):
        """The plan as plain values."""
        return dataclasses.asdict(self)


def plan_translation(
    model, atlas, to, *, split=None, guidance=None, solver=None, steps=None, seed=0, shard_size=SHARD_SIZE,
    device="cpu",
):  # fmt: skip
    """Resolve a request against a model and an atlas.

    Parameters
    ----------
    model : CFGen
    atlas : Atlas
    to : dict of str to str
        Attribute → category wanted.
    split : {"train", "val", "test"}, optional
        Which cells; all by default.
    guidance, solver, steps, seed
        As in `CFGen.generate`.
    shard_size : int
    device : {"cpu", "cuda"}

    Returns
    -------
    TranslationPlan

    Raises
    ------
    BadInput
        Other genes than the model's; an attribute, category or split that does not exist, was never trained, or has
        weight 0; cells without a label that is needed; no cells; a solver or number that cannot be.
    """
    solver = solver or model.config.sampling.solver
    steps = model.config.sampling.steps if steps is None else steps
    check_settings(solver, steps, model.size_factor.kind, shard_size, seed, device)
    check_genes(atlas, model)
    for name, features in model.features.items():
        if name not in atlas.modalities or list(atlas.features(name).index) != list(features):
            raise BadInput(f"{atlas.name}: no modality {name!r} with the {len(features):,} features of the model")
    if split is not None and split not in SPLITS:
        raise BadInput(f"split: unknown {split!r}, {nearest(split, [*SPLITS, 'all'])}")
    if not to:
        raise BadInput("to: no attribute given, expected NAME=VALUE, such as batch=b1")
    weights = guidance_weights(model, guidance)
    for name, category in to.items():
        check_attribute(model, name, "to")
        model.codes_of(name, category)
        if _weight_of_each(model, weights)[list(model.labels).index(name)] == 0:
            raise BadInput(f"guidance of {name} is 0: translation to {name}={category} needs another weight")
    rows = source_rows(atlas, split)
    if not len(rows):
        raise BadInput(f"{atlas.name}: no {split or ''} cells to translate")
    plan = TranslationPlan(
        model.digest, atlas.fingerprint, split, len(rows), dict(to), weights, solver, steps,
        model.config.sampling.batch_size, shard_size, seed, device,
    )  # fmt: skip
    for start in range(0, len(rows), SLICE):
        before, after = source_and_target(model, atlas, plan, rows[start : start + SLICE])
        refuse_unseen(model, after[:1], weights)
        refuse_unseen(model, before, weights)
    return plan


def source_and_target(model, atlas, plan, rows):
    """Labels of cells before and after translation, as codes of the model, two int64 arrays (n, K).

    Raises
    ------
    BadInput
        A label that is needed, for its guidance weight or for theta, is missing or unknown to the model.
    """
    weighted = zip(model.labels, _weight_of_each(model, plan.weights), strict=True)
    needed = {name for name, weight in weighted if weight}
    covariate = model.config.autoencoder.theta_covariate
    if covariate and covariate not in plan.to:
        needed.add(covariate)
    before = model_codes(atlas, model, rows, needed)
    after = before.copy()
    for name, category in plan.to.items():
        after[:, list(model.labels).index(name)] = model.codes_of(name, category)[0]
    return before, after


def source_rows(atlas, split):
    """Rows of the cells of a split, all of them for None, ascending int64 (n,)."""
    return np.arange(atlas.n_cells) if split is None else atlas.rows(split=split)


@lru_cache(maxsize=4)
def _opened(path, fingerprint, split):
    """The atlas at a path and its rows of a split, found once a process; BadInput when it holds other cells by now."""
    atlas = open_atlas(path)
    if atlas.fingerprint != fingerprint:
        raise BadInput(f"{path}: holds other cells than when the translation was planned")
    return atlas, source_rows(atlas, split)


@torch.inference_mode()
def translate_shard(model, shard, plan, atlas):
    """Translate the cells of a shard, each with its own size factor; a modality that a cell lacks it goes on to lack.

    Parameters
    ----------
    model : CFGen
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
    atlas, rows = _opened(atlas, plan.atlas, plan.split)
    rows = rows[slice(*plan.shard_bounds(shard))]
    before, after = source_and_target(model, atlas, plan, rows)
    rng = generator(plan.seed, Generation.TRANSLATION, shard)
    networks = branches(model.autoencoder)
    seeds = {name: rng.integers(0, 2**64, len(rows), dtype=np.uint64) for name in networks}
    covariate = model.config.autoencoder.theta_covariate
    theta_category = after[:, list(model.labels).index(covariate)] if covariate else np.zeros(len(rows), np.int64)
    blocks = {name: [] for name in networks}
    for start in range(0, len(rows), plan.batch_size):
        batch = slice(start, start + plan.batch_size)
        counts = {name: atlas.read(rows[batch], name) for name in networks}
        sizes = {name: counts[name].row_sums() for name in networks}
        dense = model.autoencoder.dense(counts, model.device)
        z = translate_latents(model, plan, dense, sizes["rna"], before[batch], after[batch])
        for name, network in networks.items():
            drawn = network.draw(z, sizes[name], theta_category[batch], seeds[name][batch], rng)
            blocks[name].append(_without(drawn, sizes[name] == 0))
    return {name: stacked(blocks[name], networks[name].n_genes) for name in networks}, after


def _without(rows, lacking):
    """Rows (data, indices, indptr) without the counts of those that lack the modality: it was not measured in them."""
    if not lacking.any():
        return rows
    data, indices, indptr = rows
    lengths = np.diff(indptr)
    keep = np.repeat(~lacking, lengths)
    return data[keep], indices[keep], np.concatenate([[0], np.cumsum(np.where(lacking, 0, lengths))])


def translate_latents(model, plan, counts, size_factor, before, after):
    """Latents (B, D) tensor under the labels `after` of cells with labels `before`.

    Parameters
    ----------
    model : CFGen
    plan : TranslationPlan
    counts
        Dense, as `model.autoencoder.dense` gives them.
    size_factor : (B,) float64 array
    before, after : (B, K) int64 arrays
    """
    total = torch.from_numpy(size_factor.astype(np.float32)).to(model.device)
    log_total = total.clamp_min(1.0).log()
    joint = model.config.flow.conditioning == "joint"
    weights = plan.weights[0] if joint else plan.weights
    z = model.velocity.standardise(model.autoencoder.encode(counts, total))
    for codes, start, end in ((before, 1.0, 0.0), (after, 0.0, 1.0)):
        here = torch.from_numpy(codes).to(model.device)
        field = guided(PreparedVelocity(model.velocity), here, weights, joint, log_total)
        z = integrate(field, z, solver=plan.solver, steps=plan.steps, start=start, end=end)
    return model.velocity.restore(z)


def _weight_of_each(model, weights):
    """One guidance weight an attribute, whatever the conditioning."""
    return weights * len(model.labels) if model.config.flow.conditioning == "joint" else weights
