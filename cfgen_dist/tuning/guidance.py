"""Guidance strength and solver steps, searched on the finished model without training anything again."""

from pathlib import Path
from typing import Any

from cfgen_dist.config import Config
from cfgen_dist.training.flow import untrained_velocity
from cfgen_dist.training.modalities import fitted_rows
from cfgen_dist.training.stages import assemble, label_categories
from cfgen_dist.tuning.distributions import Choice, Keys
from cfgen_dist.tuning.objective import NOTED, ValidationCells
from cfgen_dist.tuning.records import SAMPLING, TrialRecord, read_request, read_sampling
from cfgen_dist.tuning.trial import WEIGHTS, best_autoencoder, load_weights, trial_config
from data_loaders import open_atlas
from data_loaders.vouchers import write_sealed

MOST_COVERAGE_LOST = 0.02
SHOWN = (*NOTED, "coverage", "correlation_error", "auc_genes")


def score_settings(
    run: Path, best: TrialRecord, grid: dict[str, list[Any]], objective: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score every guidance strength with every number of steps and choose.

    The lowest objective decides; among those within one standard error of it, the fewest steps, then the guidance
    nearest to the faithful 1. Guidance buys shorter distances with diversity, so settings that lose more than 0.02 of
    coverage against the most covering one are left out.

    Parameters
    ----------
    run : Path
        The search's directory; the rows are kept in `sampling.json`.
    best : TrialRecord
        The best flow trial.
    grid : dict of str to list
        `sampling.guidance` and `sampling.steps`.
    objective : str

    Returns
    -------
    rows : list of dict
        `guidance`, `steps`, the objective with its standard `error`, and more metrics.
    chosen : dict
        One of them.
    """
    path = run / SAMPLING
    if path.exists():
        return read_sampling(run)
    request = read_request(run)
    atlas, config = open_atlas(request["atlas"]["path"]), trial_config(run, "flow", best["values"])
    latents = open_atlas(run / "latents.zarr")
    fitted = fitted_rows(latents, config.modalities, config.refit)
    velocity = untrained_velocity(latents, label_categories(atlas, config), config.flow, fitted)
    load_weights(velocity, Path(best["folder"]) / WEIGHTS)
    model = assemble(atlas, config, best_autoencoder(run, atlas, config), velocity.eval(), {})
    cells, rows = ValidationCells(atlas, config), []
    for guidance in grid["sampling.guidance"]:
        for steps in grid["sampling.steps"]:
            mean, error = cells.score(model, guidance=guidance, steps=steps, structure=True)
            shown = {name: mean[name] for name in dict.fromkeys((objective, *SHOWN)) if name in mean}
            rows.append({"guidance": guidance, "steps": steps, "error": error[objective], **shown})
    chosen = choose(rows, objective)
    found = {"rows": rows, "chosen": chosen}
    write_sealed(path, found, indent=1)
    return rows, chosen


def choose(rows: list[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The row that `score_settings` describes."""
    diverse = max(row["coverage"] for row in rows) - MOST_COVERAGE_LOST
    allowed = [row for row in rows if row["coverage"] >= diverse]
    best = min(allowed, key=lambda row: row[objective])
    close = [row for row in allowed if row[objective] <= best[objective] + best["error"]]
    return min(close, key=lambda row: (row["steps"], abs(row["guidance"] - 1), row[objective]))


def grid_of(keys: Keys, config: Config) -> dict[str, list[Any]]:
    """Values of both settings: those of the space, with the base config's among them."""
    grid = {}
    for name in ("guidance", "steps"):
        key, of_base = f"sampling.{name}", getattr(config.sampling, name)
        tried = keys.get(key)
        grid[key] = sorted({*(tried.values if isinstance(tried, Choice) else ()), of_base})
    return grid
