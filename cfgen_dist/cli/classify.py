"""`cfgen-dist classify`."""

import argparse
import math

from data_loaders.storage import shown

LINES = {
    "macro_f1_gain": "gain of macro F1 over the original cells",
    "macro_f1_gain_over_copies": "gain of macro F1 over copies of real cells",
    "pearson_r": "Pearson r, gain and log frequency",
    "pearson_r_over_copies": "Pearson r, gain over copies and log frequency",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("atlas", metavar="ATLAS", help="real cells; those of split test are scored")
    parser.add_argument(
        "augmented", metavar="AUGMENTED", nargs="+",
        help="made from it by `cfgen-dist augment`; several, made with several seeds, give the intervals",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write: table, figures, JSON")
    parser.add_argument("--label", default="cell_type", metavar="NAME", help="obs column (default cell_type)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="repetitions that are averaged (default 5)")


def run(args: argparse.Namespace) -> None:
    """Classify and print the table."""
    from rich.console import Console
    from rich.table import Table

    from cfgen_dist.classification.run import classify

    table, summary = classify(args.atlas, args.augmented, args.out, label=args.label, seeds=args.seeds)
    console = Console()
    for kind, overall in summary.items():
        rows = Table(title=kind)
        rows.add_column("type")
        for column in ("train", "added", "test", "F1 original", "copies", "generated", "gain", "gain over copies"):
            rows.add_column(column, justify="right")
        for row in table[table["classifier"] == kind].itertuples():
            cells = (f"{n:,}" for n in (row.train_cells, row.generated_cells, row.test_cells))
            f1 = (f"{value:.3f}" for value in (row.f1_original, row.f1_copies, row.f1_generated))
            over_copies = _with_interval(row.gain_over_copies, row.gain_over_copies_high)
            rows.add_row(row.type, *cells, *f1, _with_interval(row.gain, row.gain_high), over_copies)
        console.print(rows)
        for name, words in LINES.items():
            mean, low, high = (overall[name][key] for key in ("mean", "low", "high"))
            spread = f" ({low:+.3f} to {high:+.3f})" if math.isfinite(low) else ""
            print(f"{words}: {mean:+.3f}{spread}")
        n = overall["macro_f1_gain"]["n"]
        print(f"Intervals: over {n} augmented atlases" if n > 1 else "No intervals: one augmented atlas")
    print(f"Table and figure: {shown(args.out)}")


def _with_interval(gain: float, high: float) -> str:
    """A gain and half its interval; none with one augmented atlas."""
    return f"{gain:+.3f}" + (f" ± {high - gain:.3f}" if math.isfinite(high) else "")
