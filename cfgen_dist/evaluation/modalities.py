"""The further modalities of cells, such as atac: metrics of each beside their floor, and markers by type.

Each modality is evaluated by the stages of the main one, in shards and on the same workers. It has a space of its own,
and a folder of parts inside the folder of the whole evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cfgen_dist.evaluation import stages
from cfgen_dist.evaluation.metrics.catalogue import LOG_NORMALISED, TF_IDF, metrics_of
from cfgen_dist.evaluation.metrics.markers import LevelSums, best_markers, level_correlation, marker_columns
from cfgen_dist.evaluation.sources import MAIN, Cells, Source, reopen
from cfgen_dist.evaluation.summary import summarise
from cfgen_dist.evaluation.verdict import needs_types
from cfgen_dist.evaluation.workspace import Workspace
from cfgen_dist.workers.pool import Pool
from data_loaders.card import ACCESSIBILITY
from data_loaders.errors import BadInput, nearest
from data_loaders.storage import Place
from data_loaders.types import Ints

Opened = dict[str, tuple[list[Cells], dict[str, Any]]]  # modality → its sources, the entries of its plan


@dataclass(frozen=True)
class Comparison:
    """What the modalities are compared on.

    Attributes
    ----------
    origins : list of path-like, Atlas or AnnData
        The real cells first.
    cells : list of Cells
        The same, opened.
    rows : dict of str to int array
        Set → rows of its source: `train`, `test`, `floor-K`, `generated-K`.
    source_of : dict of str to int
        Set → number of its source.
    settings : str
        Digest of the settings of the evaluation.
    markers : pandas.DataFrame or None
        Columns `type`, `feature`; found in the training cells when None.
    seed : int
    """

    origins: list[Source]
    cells: list[Cells]
    rows: dict[str, Ints]
    source_of: dict[str, int]
    settings: str
    markers: pd.DataFrame | None
    seed: int

    def modalities(self) -> list[str]:
        """Names of the modalities to compare: those that all sources describe; none for rna alone without markers."""
        shared = [name for name in self.cells[0].largest if all(name in cells.largest for cells in self.cells)]
        return [MAIN, *shared] if shared or self.markers is not None else []

    def open(self) -> Opened:
        """The sources of each modality to compare, and the entries of its plan that say how they were opened.

        Raises
        ------
        BadInput
            Features that differ between the sources, or a marker that no modality has.
        """
        opened = {name: self._open(name) for name in self.modalities()}
        _refuse_unknown(self.markers, {name: sources[0].genes for name, (sources, _) in opened.items()})
        return opened

    def _open(self, name: str) -> tuple[list[Cells], dict[str, Any]]:
        accessible = name in ACCESSIBILITY
        how: dict[str, Any] = {} if name == MAIN else {"modality": name}
        if accessible:  # 0/1 values say of real cells as much as a model of them can
            how["binary"] = all(cells.largest[name] <= 1 for cells in self.cells[1:])
        real, *others = [
            reopen(origin, cells, generated=number > 0, **how)
            for number, (origin, cells) in enumerate(zip(self.origins, self.cells, strict=True))
        ]
        sources = [real, *(cells.in_order_of(real.genes).with_types_of(real) for cells in others)]
        return sources, how | {"space": TF_IDF if accessible else LOG_NORMALISED}

    def rows_of(self, name: str) -> dict[str, Ints]:
        """The rows of each set that have counts in a modality, of types that the test cells have in it.

        Training cells are of all types: they are for markers alone.
        """
        if name == MAIN:
            return self.rows
        there = [cells.measured(name) for cells in self.cells]
        rows = {key: chosen[there[self.source_of[key]][chosen]] for key, chosen in self.rows.items()}
        kinds = np.unique(self.cells[0].codes[rows["test"]])
        codes = {key: self.cells[self.source_of[key]].codes[chosen] for key, chosen in rows.items()}
        return {key: chosen if key == "train" else chosen[np.isin(codes[key], kinds)] for key, chosen in rows.items()}


def compare_modalities(
    comparison: Comparison, opened: Opened, folder: Place, pool: Pool, ray: str | None, shard_size: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Score the modalities that the real and all generated cells have.

    Parameters
    ----------
    comparison : Comparison
    opened : dict
        What `Comparison.open` gave.
    folder : Place
        Of the parts of the evaluation.
    pool : callable
    ray
        As in `evaluate`.
    shard_size : int

    Returns
    -------
    found : dict of str to dict
        Modality → `space`, `binary`, `metrics` {name: {"generated", "floor": {"mean", "sd"}}} (not of rna, whose
        metrics are those of the evaluation), `markers` {type: {"generated", "floor": r}}, means over sets. Empty when
        there is one modality only and no markers are given.
    notes : list of str
        What could not be compared.
    """
    found: dict[str, dict[str, Any]] = {}
    notes = []
    for name, (sources, how) in opened.items():
        rows = comparison.rows_of(name)
        few = next((key for key, chosen in rows.items() if len(chosen) < (2 if key == "test" else 1)), None)
        if few and name != MAIN:
            notes.append(f"Modality {name}: {len(rows[few])} cells of {few} have counts in it, so it is not compared.")
            continue
        plan = how | {
            "sets": comparison.source_of, "protocol": "centred", "seed": comparison.seed,
            "n_types": len(sources[0].types), "n_genes": len(sources[0].genes), "settings": comparison.settings,
            "pooled": sources[0].pooled,
        }  # fmt: skip
        work = Workspace.create(folder / f"modality-{name}", plan, sources, rows)
        setup = stages.worker_setup(work, comparison.origins, ray)
        found[name] = _compare(name, work, pool, setup, shard_size, comparison.markers)
    return found, notes


def _compare(
    name: str, work: Workspace, pool: Pool, setup: stages.Setup, shard_size: int, markers: pd.DataFrame | None
) -> dict[str, Any]:
    types, features = work.sources[0].types, work.sources[0].genes
    kinds = {kind: [key for key in work.plan["sets"] if key.startswith(kind)] for kind in ("generated", "floor")}
    accessible, pooled = name in ACCESSIBILITY, work.plan["pooled"]
    found: dict[str, Any] = {"space": work.plan["space"], "binary": work.plan.get("binary", False)}
    if name != MAIN:
        stages.fit(work, pool, setup, shard_size)
        stages.scan(work, pool, setup, shard_size)
        of_space = metrics_of(work.plan["space"], counts=False)
        metrics = [metric for metric in of_space if not (pooled and needs_types(metric))]
        scored = stages.score(work, pool, setup, types, metrics)
        summary = {kind: summarise([scored[key][0] for key in keys]) for kind, keys in kinds.items()}
        found["metrics"] = {metric: {kind: summary[kind][metric] for kind in kinds} for metric in summary["generated"]}
    found["markers"] = {}
    if pooled:
        return found
    if markers is None:
        empty = {"train": LevelSums(len(types), np.arange(len(features)), accessible)}
        sums = stages.add_up(work, pool, setup, shard_size, empty, "levels.all")
        markers = best_markers(sums["train"], types, features)
    else:
        markers = markers[markers["feature"].isin(features)]
    if len(markers):
        columns = marker_columns(markers, features)
        empty = {
            key: LevelSums(len(types), columns, accessible) for key in ("test", *kinds["generated"], *kinds["floor"])
        }
        sums = stages.add_up(work, pool, setup, shard_size, empty, "levels.markers")
        r = pd.DataFrame(
            {
                kind: sum(level_correlation(sums["test"], sums[key], types)["r"] for key in keys) / len(keys)
                for kind, keys in kinds.items()
            }
        )
        found["markers"] = r.astype(object).where(r.notna(), None).to_dict("index")
    return found


def _refuse_unknown(markers: pd.DataFrame | None, features: Mapping[str, Sequence[str]]) -> None:
    if markers is None:
        return
    known = pd.Index(np.concatenate(list(features.values())))
    unknown = markers["feature"][~markers["feature"].isin(known)]
    if len(unknown):
        raise BadInput(f"`markers`: no feature {unknown.iloc[0]!r}, {nearest(unknown.iloc[0], known)}")
