"""`cfgen-dist guide`."""

import argparse
import math

from cfgen_dist.cli.making import add_solver
from cfgen_dist.cli.values import pairs, weights, whole
from data_loaders.errors import BadInput
from data_loaders.storage import shown

SHOWN = 4  # settings side by side
COLUMNS = ("on_target", "w2", "mmd", "spread", "coverage")  # as many as 80 characters hold


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("atlas", metavar="ATLAS", help="real cells to compare with")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--sweep", required=True, metavar="NAME=FROM:TO:STEP[,...]", help="weights to try, of one or two attributes"
    )
    parser.add_argument("--fix", metavar="NAME=WEIGHT[,...]", help="weights of other attributes; left out means 0")
    parser.add_argument(
        "--target", metavar="NAME=VALUE[,...]", help="the intersection to aim at (default: that with most real cells)"
    )
    parser.add_argument("--joint", metavar="BUNDLE", help="a model of joint labels to compare with")
    parser.add_argument("--cells", type=whole, default=500, metavar="N", help="of each setting (default 500)")
    parser.add_argument("--split", default="test", metavar="NAME", help="real cells: train, val, test (default) or all")
    parser.add_argument(
        "--embedding", default="pca", metavar="NAME", help="picture of the cells: pca (default) or umap"
    )
    parser.add_argument(
        "--no-measures", dest="measures", action="store_false",
        help="leave out the measures of an evaluation and the choice by them, which take seconds a setting",
    )  # fmt: skip
    add_solver(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of all random numbers (default 0)")


def run(args: argparse.Namespace) -> None:
    """Run the grid and print its table."""
    from rich.console import Console
    from rich.table import Table

    from cfgen_dist.evaluation.trade_off import as_table
    from cfgen_dist.guidance_sweep.run import guidance_table, guide

    sweep = {name: span(name, text) for name, text in pairs(args.sweep, "--sweep").items()}
    result = guide(
        args.bundle, args.atlas, args.out, sweep,
        fix=weights(args.fix, "--fix"), target=pairs(args.target, "--target") if args.target else None,
        joint=args.joint, cells=args.cells, split=args.split, embedding=args.embedding, measures=args.measures,
        solver=args.solver, steps=args.steps, seed=args.seed,
    )  # fmt: skip
    frame = guidance_table(result)
    columns = ["model", *(name for name in frame if name.startswith("w_")), *COLUMNS]
    title = ", ".join(f"{name}={value}" for name, value in result["target"].items())
    headers = [name.removeprefix("w_") for name in columns]
    table = Table(*headers, title=f"{title}: {result['target_cells']:,} real cells; weights and scores")
    for row in frame[columns].itertuples(index=False):
        table.add_row(row[0], *("" if value is None or math.isnan(value) else f"{value:.3g}" for value in row[1:]))
    Console().print(table)
    if result["chosen"] is not None:
        headings = [
            ("joint " if setting["model"] == "joint" else "")
            + "/".join(f"{weight:g}" for weight in setting["weights"].values())
            + (" chosen" if number == result["chosen"] else "")
            for number, setting in enumerate(result["settings"])
        ]
        for first in range(0, len(headings), SHOWN):
            part = slice(first, first + SHOWN)
            names = "/".join(result["settings"][0]["weights"])
            title = f"The trade-off by weight of {names}" if first == 0 else ""
            Console().print(as_table(title, headings[part], result["settings"][part]))
    print(f"{shown(args.out)}/guidance.json, guidance.csv, cells.png, scores.png")


def span(name: str, text: str) -> list[float]:
    """Read `0:3:0.5` as [0, 0.5, ..., 3], the end included; a single number as itself.

    Raises
    ------
    BadInput
        Not three numbers, a step that is not positive, an end below the start, more than 200 weights.
    """
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and math.isfinite(numbers[0]):
        return numbers
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise BadInput(f"--sweep has {text!r} for {name}, expected FROM:TO:STEP, such as 0:3:0.5")
    start, end, step = numbers
    if step <= 0 or end < start:
        raise BadInput(f"--sweep has {text!r} for {name}, expected FROM not above TO and a STEP above 0")
    if (end - start) / step > 200:
        raise BadInput(
            f"--sweep has {text!r} for {name}: {(end - start) / step + 1:,.0f} weights, expected 200 at most"
        )
    return [round(start + i * step, 10) for i in range(int((end - start) / step + 1e-9) + 1)]
