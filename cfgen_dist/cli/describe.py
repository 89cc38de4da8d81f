"""`cfgen-dist describe`: print the card of an atlas, a run or a model bundle."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_loaders.card import read_card
from data_loaders.errors import BadInput

MOST_ROWS = 60  # categories shown per label column


def configure(parser):
    """Add the arguments."""
    parser.add_argument("path", metavar="ATLAS|RUN|BUNDLE")
    parser.add_argument("--json", action="store_true", help="print the card as it is")


def run(args):
    """Print the card."""
    card, is_atlas = find_card(args.path)
    if args.json:
        print(json.dumps(card, indent=2))
        return
    console = Console(highlight=False)
    (_print_atlas if is_atlas else _print_bundle)(console, args.path, card)


def find_card(path):
    """The card of what is at `path`, and whether that is an atlas.

    Raises
    ------
    BadInput
        There is no atlas, bundle or run, or its card cannot be read.
    """
    path = Path(path)
    if (path / "zarr.json").is_file():
        return read_card(path), True
    for bundle in (path, path / "bundle"):
        if (bundle / "card.json").is_file():
            from cfgen_dist.bundle import read_card as read_bundle_card  # loads torch, which an atlas does not need

            return read_bundle_card(bundle), False
    if (path / "config.yaml").is_file() and (path / "atlas.json").is_file():
        done = [name for name in ("autoencoder", "flow") if (path / name / "weights.safetensors").exists()]
        finished = f"finished: {', '.join(done)}" if done else "no stage is finished"
        raise BadInput(f"{path}: a run without a model yet ({finished}); `cfgen-dist train --resume` goes on")
    found = "nothing" if not path.exists() else "no zarr.json, card.json or bundle/card.json"
    raise BadInput(f"{path}: {found} there; expected an atlas, a run or a model bundle")


def _print_atlas(console, path, card):
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


def _print_label(console, name, label, laws):
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
    console.print(table)


def _print_bundle(console, path, card):
    config, trained = card["config"], card["provenance"]
    law = card["size_factor"]
    console.print(f"[bold]{escape(str(path))}[/bold]: a model")
    console.print(f"genes       {len(card['genes']):,}, in {config['autoencoder']['latent_dim']} latent dimensions")
    for name, names in card.get("features", {}).items():
        likelihood = config["modalities"]["likelihood"][name]
        console.print(f"modality    {name}: {len(names):,} features, {likelihood}", markup=False)
    for name, categories in card["labels"].items():
        shown = ", ".join(categories[:8]) + (", ..." if len(categories) > 8 else "")
        console.print(f"label       {name}: {len(categories)} categories ({shown})", markup=False)
    of = f"per {law['covariate']}" if law["covariate"] else "of all cells"
    console.print(f"size factor {law['kind']} {of}", markup=False)
    console.print(f"sampling    {config['sampling']['solver']}, {config['sampling']['steps']} steps")
    console.print(
        f"trained on  {trained['atlas']['path']}, {trained['atlas']['n_cells']:,} cells with the held-out ones",
        markup=False,
    )
    for metric, value in trained["training"].items():
        console.print(f"{metric:11} {value:,.4g}")
    _print_fields(console, {"versions": trained["versions"]})


def _print_fields(console, fields):
    """One line a field; long lists are cut, `--json` has them whole."""
    for key, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value)
        console.print(f"{key}: {text if len(text) < 300 else text[:297] + '...'}", markup=False)
