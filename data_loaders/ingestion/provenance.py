"""What the card of an atlas says of how it was made: its sources, the options used, and what was left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_loaders.features.shared_names import MIN_SHARED
from data_loaders.ingestion.choice import Kept
from data_loaders.ingestion.modalities import MAIN
from data_loaders.labels import parse_missing
from data_loaders.sources.source import Source

OPTIONAL = {  # arguments of `ingest` that the card names only where they are not these
    "organism": None,
    "obs_filter": None,
    "var_names": None,
    "min_shared": MIN_SHARED,
    "missing_values": (),
    "unlabelled": "refuse",
    "drop_copies": False,
    "round_counts": False,
}


def described(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The card's entries on sources."""
    return [
        {
            "path": source.path,
            "counts": source.counts_from,
            "n_cells": len(source.obs),
            "n_genes": len(source.var),
        }
        for source in sources
    ]


def used_options(arguments: Mapping[str, Any], *, has_others: bool, held_out: Sequence[str]) -> dict[str, Any]:
    """The card's entry on options.

    Parameters
    ----------
    arguments : dict
        Of `ingest`, as they were given.
    has_others : bool
        Whether there are modalities beside rna.
    held_out : sequence of str
        Categories of the `holdout` column, or its combination in words, whose cells are test cells.
    """
    given = dict(arguments)
    given["labels"] = list(given["labels"])
    given["genes"] = None if given["genes"] is None else str(given["genes"])
    given["missing_values"] = parse_missing(given["missing_values"])
    holdout = given["holdout"]
    return {
        **{name: given[name] for name in ("labels", "min_cells", "genes", "join")},
        **({"cells": given["cells"]} if has_others else {}),
        "drop_empty": given["drop_empty"],
        "in_order": given["keep_order"],
        **{name: _plain(given[name]) for name, usual in OPTIONAL.items() if given[name] != usual},
        "seed": given["seed"],
        "val_fraction": given["val_fraction"],
        **(
            {"holdout": dict(holdout) if isinstance(holdout, Mapping) else list(holdout), "held_out": list(held_out)}
            if holdout
            else {"test_fraction": given["test_fraction"]}
        ),
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else list(value)


def dropped(kept: Mapping[str, Kept], n_empty: int, n_incomplete: int) -> dict[str, int]:
    """The card's entry on what was left out; incomplete cells lack a modality."""
    too_rare, not_chosen = kept[MAIN].dropped()
    others = {name: part for name, part in kept.items() if name != MAIN}
    return {
        "empty_cells": n_empty,
        **({"cells_without_all_modalities": n_incomplete} if others else {}),
        "genes_below_min_cells": too_rare,
        "genes_not_chosen": not_chosen,
        **{f"{name}_features_below_min_cells": part.too_rare for name, part in others.items()},
    }


def rounding_notes(sources: Sequence[Source]) -> list[str]:
    """What to say of values that were not whole."""
    notes = []
    for source in sources:
        rounding = source.rounding
        if rounding.n_rounded:
            what = f"{source.path}: {rounding.n_rounded:,} values were rounded, by at most {rounding.largest:.3g}"
            notes.append(what if rounding.allowed else f"{what}: whole numbers but for the error of floats")
    return notes
