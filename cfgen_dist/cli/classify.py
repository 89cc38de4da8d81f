"""`cfgen-dist classify`."""

import argparse
import math
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("atlas", metavar="ATLAS", help="real cells; those of split test are scored")
    parser.add_argument(
        "augmented", metavar="AUGMENTED", nargs="+",
        help="made from it by `cfgen-dist augment`; several, made with several seeds, take turns",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write: table, figures, JSON")
    parser.add_argument("--label", default="cell_type", metavar="NAME", help="obs column (default cell_type)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="repetitions (default 5)")


def run(args: argparse.Namespace) -> None:
    """Classify and print the table."""
    from rich.console import Console
    from rich.table import Table

    from cfgen_dist.classification.run import classify

    table, summary = classify(args.atlas, args.augmented, args.out, label=args.label, seeds=args.seeds)
    console = Console()
    for kind, overall in summary.items():
        shown = Table(title=kind)
        for column in ("type", "train", "generated", "test", "F1 original", "augmented", "gain ± 95 %"):
            shown.add_column(column, justify="left" if column == "type" else "right")
        for row in table[table["classifier"] == kind].itertuples():
            half = (row.gain_high - row.gain_low) / 2  # of the interval; none with one seed
            gain = f"{row.gain:+.3f}" + (f" ± {half:.3f}" if math.isfinite(half) else "")
            cells = (f"{n:,}" for n in (row.train_cells, row.generated_cells, row.test_cells))
            shown.add_row(row.type, *cells, f"{row.f1_original:.3f}", f"{row.f1_augmented:.3f}", gain)
        console.print(shown)
        for name, words in (("macro_f1_gain", "gain of macro F1"), ("pearson_r", "Pearson r, gain and log frequency")):
            value = overall[name]
            console.print(f"{words}: {value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})")
    print(f"Table and figure: {Path(args.out)}")
