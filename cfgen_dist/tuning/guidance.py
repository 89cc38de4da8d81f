"""Guidance strength and solver steps, searched on the finished model without training anything again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfgen_dist.config import Config
from cfgen_dist.evaluation.choice import Standing, keeps_structure, nearest_to_floor, title_of
from cfgen_dist.training.calibration import calibrate
from cfgen_dist.training.flow import untrained_velocity
from cfgen_dist.training.folder import RunFolder
from cfgen_dist.training.modalities import fitted_rows
from cfgen_dist.training.stages import assemble, label_categories
from cfgen_dist.tuning.distributions import Choice, Keys
from cfgen_dist.tuning.objective import AVERAGE, WORST, ValidationCells
from cfgen_dist.tuning.records import SAMPLING, TrialRecord, read_request, read_sampling
from cfgen_dist.tuning.trial import WEIGHTS, best_autoencoder, load_weights, trial_config
from data_loaders import open_atlas
from data_loaders.vouchers import write_sealed

DISTANCES = "distances"  # of a row: measure → distance to the floor, in units


def score_settings(
    home: RunFolder, best: TrialRecord, grid: dict[str, list[Any]], objective: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score every guidance strength with every number of steps and choose; see `choose`.

    Parameters
    ----------
    home : RunFolder
        Of the search; the rows are kept in its `sampling.json`.
    best : TrialRecord
        The best flow trial.
    grid : dict of str to list
        `sampling.guidance` and `sampling.steps`.
    objective : str

    Returns
    -------
    rows : list of dict
        `guidance`, `steps`; every metric of the catalogue, the mean over sets; `distances`, those of each measure to
        the floor in units of its spread, the largest of them as `worst`, of the measure `worst_measure`, their mean as
        `average`, and the standard errors `worst_error` and `average_error`; `error`, that of the objective.
    chosen : dict
        One of them.
    """
    run, path = home.path, home.path / SAMPLING
    if path.exists():
        return read_sampling(run)
    request = read_request(run)
    atlas, config = open_atlas(request["atlas"]["path"]), trial_config(run, "flow", best["values"])
    latents = open_atlas(str(home.place / "latents.zarr"))
    fitted = fitted_rows(latents, config.modalities, config.refit)
    velocity = untrained_velocity(latents, label_categories(atlas, config), config.flow, fitted)
    load_weights(velocity, Path(best["folder"]) / WEIGHTS)
    autoencoder = best_autoencoder(run, atlas, config)
    calibration = calibrate(atlas, autoencoder, config, run / "calibration") if config.calibrate else None
    model = assemble(atlas, config, autoencoder, velocity.eval(), {}, calibration)
    cells, rows = ValidationCells(atlas, config), []
    for guidance in grid["sampling.guidance"]:
        for steps in grid["sampling.steps"]:
            scored = cells.score(model, guidance=guidance, steps=steps, structure=True)
            rows.append(row_of(guidance, steps, scored.mean, scored.error, scored.standing, objective))
    chosen = choose(rows, objective)
    found = {"rows": rows, "chosen": chosen}
    write_sealed(path, found, indent=1)
    return rows, chosen


def row_of(
    guidance: float,
    steps: int,
    mean: dict[str, float],
    error: dict[str, float],
    standing: Standing | None,
    objective: str,
) -> dict[str, Any]:
    """What is kept of a setting; see `score_settings`."""
    row: dict[str, Any] = {"guidance": guidance, "steps": steps, "error": error[objective], **mean}
    if standing is not None:
        row |= {
            "worst_measure": standing.worst_measure, "worst_error": standing.worst_error,
            "average_error": standing.average_error, DISTANCES: standing.distances,
        }  # fmt: skip
    return row


def choose(rows: Sequence[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The best of some settings.

    Settings that cost too much structure are left out: those whose correlation error is more than 0.05 above, or whose
    coverage is more than 0.02 below, that of the guidance nearest to 1 with the same steps. Of the others

    - by the objective `worst`, those with the lowest worst distance to the floor, and of these those with the lowest
      mean distance, each within one standard error;
    - by another objective, those that have the lowest, within one standard error of it;

    and of what is left the one with the fewest steps, then the guidance nearest to 1.
    """
    allowed = _allowed(rows)
    if objective == WORST:
        standings = [
            Standing(
                row[DISTANCES], row[WORST], row["worst_measure"], row[AVERAGE], row["worst_error"], row["average_error"]
            )
            for row in allowed
        ]
        close = [allowed[i] for i in nearest_to_floor(standings)]
    else:
        best = min(allowed, key=lambda row: row[objective])
        close = [row for row in allowed if row[objective] <= best[objective] + best["error"]]
    return min(close, key=lambda row: (row["steps"], abs(row["guidance"] - 1), row[objective]))


def _allowed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings that are not much worse in structure than the faithful one with the same steps."""
    kept = []
    for row in rows:
        same = [other for other in rows if other["steps"] == row["steps"]]
        if keeps_structure(row, min(same, key=lambda other: abs(other["guidance"] - 1))):
            kept.append(row)
    return kept


def grid_of(keys: Keys, config: Config) -> dict[str, list[Any]]:
    """Values of both settings: those of the space, with the base config's among them."""
    grid = {}
    for name in ("guidance", "steps"):
        key, of_base = f"sampling.{name}", getattr(config.sampling, name)
        tried = keys.get(key)
        grid[key] = sorted({*(tried.values if isinstance(tried, Choice) else ()), of_base})
    return grid


def heading_of(objective: str) -> str:
    """What an objective of the flows is called over a column."""
    return "spreads from the floor, at worst" if objective == WORST else f"{objective} to validation cells"


def described(objective: str, row: dict[str, Any]) -> str:
    """What a setting reached, in words."""
    if objective != WORST:
        return f"{objective} {row[objective]:.4g} to validation cells"
    return (
        f"at worst {row[WORST]:.3g} spreads from the floor ({title_of(row['worst_measure'])}), "
        f"{row[AVERAGE]:.3g} on average"
    )
