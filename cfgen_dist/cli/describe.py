"""`cfgen-dist describe`: print the card of an atlas, a run or a model bundle."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

MOST_ROWS = 60  # categories shown per label column


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", metavar="ATLAS|RUN|BUNDLE", help="an atlas store, a run directory or a model bundle")
    parser.add_argument("--json", action="store_true", help="print the card as it is")


def run(args: argparse.Namespace) -> None:
    """Print the card."""
    from rich.console import Console

    from cfgen_dist.training.cards import describe

    card = describe(args.path)
    if args.json:
        print(json.dumps(card, indent=2))
        return
    console = Console(highlight=False)
    (_print_bundle if card.get("model") == "CFGen" else _print_atlas)(console, args.path, card)


def _print_atlas(console: "Console", path: str, card: dict[str, Any]) -> None:
    from rich.markup import escape

    splits = ", ".join(f"{n:,} {name}" for name, n in card["splits"].items())
    console.print(f"[bold]{escape(str(path))}[/bold]: an atlas")
    console.print(f"cells       {card['n_cells']:,} ({splits})")
    console.print(f"genes       {card['n_genes']:,}")
    console.print(f"non-zero    {card['nnz']:,} ({card['density']:.1%})")
    for name, facts in list(card.get("modalities", {}).items())[1:]:
        console.print(
            f"modality    {name}: {facts['n_features']:,} features, {facts['nnz']:,} non-zero ({facts['density']:.1%}),"
            f" up to {facts['largest']:,}; modelled as {facts['likelihood']} by default",
            markup=False,
        )
    law = card["size_factor"]
    if law["n_cells"]:
        console.print(
            f"size factor log has mean {law['mean_log']:.3f} and sd {law['sd_log']:.3f} over the training cells, "
            f"{law['min']:,.0f} to {law['max']:,.0f} counts",
        )
    for name, label in card["labels"].items():
        _print_label(console, name, label, law["by"][name])
    skip = {"format", "n_cells", "n_genes", "nnz", "density", "labels", "splits", "size_factor", "modalities"}
    _print_fields(console, {key: value for key, value in card.items() if key not in skip})


def _print_label(console: "Console", name: str, label: dict[str, Any], laws: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(name)}: {len(label['categories'])} categories", title_justify="left")
    table.add_column(escape(name))
    for heading in ("cells", "train", "log size factor: mean", "sd"):
        table.add_column(heading, justify="right")
    rows = list(zip(label["categories"], label["counts"], label["train_counts"], strict=True))
    for category, n, n_train in rows[:MOST_ROWS]:
        law = laws[category]
        numbers = ["-" if law[key] is None else f"{law[key]:.3f}" for key in ("mean_log", "sd_log")]
        table.add_row(escape(category), f"{n:,}", f"{n_train:,}", *numbers)
    if len(rows) > MOST_ROWS:
        table.add_row(f"... {len(rows) - MOST_ROWS} more", *[""] * 4)
    if "unlabelled" in label:
        table.add_row("(no label)", f"{label['unlabelled']:,}", "", "", "")
    console.print(table)


def _print_bundle(console: "Console", path: str, card: dict[str, Any]) -> None:
    from rich.markup import escape

    from cfgen_dist.config import load_config, to_dict

    config, trained = to_dict(load_config(card["config"])), card["provenance"]
    law = card["size_factor"]
    console.print(f"[bold]{escape(str(path))}[/bold]: a model")
    console.print(f"genes       {len(card['genes']):,}, in {config['autoencoder']['latent_dim']} latent dimensions")
    for name, names in card.get("features", {}).items():
        likelihood = config["modalities"]["likelihood"].get(name, "no likelihood")
        console.print(f"modality    {name}: {len(names):,} features, {likelihood}", markup=False)
    for name, categories in card["labels"].items():
        shown = ", ".join(categories[:8]) + (", ..." if len(categories) > 8 else "")
        console.print(f"label       {name}: {len(categories)} categories ({shown})", markup=False)
    if len(card["labels"]) > 1 and card.get("combinations"):
        _print_combinations(console, card)
    of = f"per {law['covariate']}" if law["covariate"] else "of all cells"
    console.print(f"size factor {law['kind']} {of}", markup=False)
    for name, modalities in card.get("calibration", {}).items():
        sizes = ", ".join(f"{value:.3f} in {modality}" for modality, value in modalities.items())
        console.print(f"calibrated  by {name}: offsets of {sizes} (root mean square of logs)", markup=False)
    console.print(f"sampling    {config['sampling']['solver']}, {config['sampling']['steps']} steps")
    atlas = trained.get("atlas", {})
    console.print(
        f"trained on  {atlas.get('path', 'unknown')}, {atlas.get('n_cells', 0):,} cells with the held-out ones",
        markup=False,
    )
    for metric, value in trained.get("training", {}).items():
        console.print(f"{metric:11} {value:,.4g}{_of_which(metric, trained['training'])}", markup=False)
    _print_fields(console, {"versions": trained.get("versions", {})})


def _print_combinations(console: "Console", card: dict[str, Any]) -> None:
    """Which combinations of labels training cells had, and what is done for the others."""
    from cfgen_dist.model.transfer import FEW

    numbers = card["combinations"]
    console.print(
        f"combined    {numbers['seen']:,} of {numbers['possible']:,} possible combinations were seen, "
        f"{numbers['rare']:,} of them in fewer than {FEW} cells"
    )
    for name, lesson in card.get("transfer", {}).items():
        if name in card["labels"]:
            console.print(
                f"unseen      {name} by transfer with weight {lesson['weight']:g}: {lesson['combinations']} seen "
                f"combinations, left out in turn, came {max(lesson['way'], 0):.0%} of the way",
                markup=False,
            )


def _of_which(metric: str, training: dict[str, float]) -> str:
    """What a value of validation cells is of, where the refit trained on them; nothing to say otherwise."""
    if metric == "val_nll_uncalibrated":
        return " (the same without the calibration)"
    if "val_nll_before_refit" not in training:
        return ""
    return {
        "val_nll": " (validation cells, which these weights were trained on)",
        "val_nll_before_refit": " (validation cells held out, other weights: before the refit)",
    }.get(metric, "")


def _print_fields(console: "Console", fields: dict[str, Any]) -> None:
    """One line a field; long lists are cut, `--json` has them whole."""
    for key, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value)
        console.print(f"{key}: {text if len(text) < 300 else text[:297] + '...'}", markup=False)
