"""Which measure sees what? Sets of cells that are wrong in one known way, scored by `evaluate`.

    python benchmarks/sensitivity.py FOLDER       # everything; goes on where it was interrupted
    python benchmarks/sensitivity.py --tables     # the tables again, judged by today's tolerances

FOLDER has pbmc3k.h5ad, kang_ifnb_pbmc.h5ad and baron_pancreas_h1.h5ad, raw counts with the obs columns of `SETS`. The
cells of each are split, stratified by type, into test (20 %), training (40 %) and a pool (40 %). A wrong set is made
from the pool, which no measure knows; at strength 0 it is a set of fresh real cells. Two halves of the pool make two
sets. `wrong_sets.py` makes them, `FAULTS` lists them. What is measured of a data set and a split is kept in
--work/DATA-SPLIT.json, and not measured again.

Tolerances: sets of strength 0 over several splits say how far real cells lie from the floor by chance. The tolerance of
a measure (`near` in the catalogue) is twice the largest excess over the floor among them, rounded up to two digits; up
to half of it counts as at the floor. Twice: by the largest excess alone real cells of another split would be off too
often, as leaving out one set after the other shows.
"""

import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import wrong_sets
from common import about, base_parser, report
from sklearn.model_selection import train_test_split

from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.summary import summarise
from cfgen_dist.evaluation.verdict import distance, judge, sees_absence

MIN_CELLS = 20  # that a gene is seen in
MIN_TYPE = 10  # cells of a type
HALVES = 2
FLOOR_SETS = 4
SPLITS = 5  # for the tolerances
MARGIN = 2


class Data(NamedTuple):
    """Where cells come from."""

    file: str
    types: str
    batches: str | None
    cells: int | None  # a random subset of as many


SETS = {
    "PBMC3K": Data("pbmc3k.h5ad", "cell_type", None, None),
    "Kang": Data("kang_ifnb_pbmc.h5ad", "cell_type", "condition", 2500),
    "Baron": Data("baron_pancreas_h1.h5ad", "cell_type", None, None),
}


class Fault(NamedTuple):
    """A way to be wrong.

    `make(cells, strength, rng)` makes it; `key` is its name in the JSON; `of` what the strength is a share of.
    """

    key: str
    title: str
    of: str
    strengths: tuple
    make: object


def dropped(cells, strength, rng):
    """Without the rarest types that together have a share of the cells, or at least one of them."""
    kinds, number = np.unique(cells.types, return_counts=True)
    order = np.argsort(number, kind="stable")
    gone = max(1, int((np.cumsum(number[order]) <= strength * len(cells)).sum()))
    return wrong_sets.without_types(cells, kinds[order][:gone])


def without_largest(cells, strength, rng):
    """Without the largest type, or with nothing else."""
    kinds, number = np.unique(cells.types, return_counts=True)
    largest = kinds[np.argmax(number)]
    return wrong_sets.without_types(cells, [largest] if strength < 1 else kinds[kinds != largest])


FAULTS = (
    Fault("dropped", "rarest types missing", "cells", (0.05, 0.2), dropped),
    Fault("largest", "largest type missing (1: nothing else)", "", (0.5, 1), without_largest),
    Fault("recomposed", "composition shifted", "largest type", (0.25, 0.5, 1), wrong_sets.recomposed),
    Fault("ambient", "ambient counts", "counts", (0.05, 0.1, 0.3), wrong_sets.ambient),
    Fault("shuffled", "genes shuffled within types", "genes", (0.1, 0.5, 1), wrong_sets.shuffled),
    Fault("shallower", "counts lost", "counts", (0.05, 0.25), wrong_sets.shallower),
    Fault("deeper", "counts added (1: depth doubled)", "counts", (0.1, 1), wrong_sets.deeper),
    Fault("weakened", "one programme expressed less", "counts", (0.1, 0.25, 0.5), wrong_sets.weakened),
    Fault("flattened", "one programme varies less", "counts", (0.1, 0.5, 1), wrong_sets.flattened),
    Fault("dispersed", "dispersion too large", "counts", (0.1, 0.25, 0.5), wrong_sets.dispersed),
    Fault("starved", "rare genes starved", "counts", (0.05, 0.1, 0.2), wrong_sets.starved),
    Fault("exaggerated", "types too different", "exponent", (0.1, 0.25), wrong_sets.exaggerated),
    Fault("alike", "types too much alike", "exponent", (0.1, 0.25),
          lambda cells, strength, rng: wrong_sets.exaggerated(cells, -strength, rng)),
    Fault("relabelled", "labels swapped", "cells", (0.02, 0.05, 0.1), wrong_sets.relabelled),
    Fault("averaged", "mode averaging", "type", (0.02, 0.1, 1), wrong_sets.averaged),
    Fault("collapsed", "few different cells, repeated", "cells", (0.5, 0.9), wrong_sets.collapsed),
    Fault("copied", "copies of training cells", "cells", (1,), None),
    Fault("rebatched", "batch labels dealt anew", "cells", (0.25, 1), wrong_sets.rebatched),
)  # fmt: skip
BY_BATCH = "rebatched"
OF_WHOLE_POOL = "recomposed"  # has as many cells of each type as a set needs when half of them are gone


def load(folder, data):
    """The cells of a data set, as `wrong_sets.Cells`."""
    found = ad.read_h5ad(Path(folder) / data.file)
    if data.cells:
        chosen = np.random.default_rng(0).choice(found.n_obs, data.cells, replace=False)
        found = found[np.sort(chosen)]
    types = found.obs[data.types].astype(str)
    found = found[(types.map(types.value_counts()) >= MIN_TYPE).to_numpy()]
    counts = found.X.tocsr().astype(np.int64)
    counts = counts[:, np.asarray((counts > 0).sum(axis=0)).ravel() >= MIN_CELLS]
    batches = found.obs[data.batches].astype(str).to_numpy() if data.batches else np.full(found.n_obs, "all")
    return wrong_sets.Cells(counts, found.obs[data.types].astype(str).to_numpy(), batches)


def split(cells, seed):
    """Test cells, training cells, and the halves of the pool."""
    rest, test = train_test_split(np.arange(len(cells)), test_size=0.2, stratify=cells.types, random_state=seed)
    train, pool = train_test_split(rest, test_size=0.5, stratify=cells.types[rest], random_state=seed)
    halves = train_test_split(pool, test_size=0.5, stratify=cells.types[pool], random_state=seed)
    return cells[test], cells[train], [cells[half] for half in halves]


def as_anndata(cells, split=None, batches=False):
    """What `evaluate` is given; with batches it compares cells by batch as well."""
    obs = pd.DataFrame({"cell_type": pd.Categorical(cells.types)})
    if batches:
        obs["batch"] = pd.Categorical(cells.batches)
    if split is not None:
        obs["split"] = pd.Categorical(split)
    obs.index = [f"cell-{i}" for i in range(len(cells))]
    return ad.AnnData(
        cells.counts.astype(np.int32), obs, pd.DataFrame(index=[f"g{i}" for i in range(cells.counts.shape[1])])
    )


def real_cells(test, train, batches=False):
    """The atlas: test and training cells."""
    both = wrong_sets.joined([test, train])
    return as_anndata(both, np.repeat(["test", "train"], [len(test), len(train)]), batches)


def make(fault, strength, halves, train, seed):
    """The sets of a fault, as AnnData."""
    batches = fault.key == BY_BATCH
    maker = fault.make or partial(wrong_sets.copied, train=train)
    made = []
    if fault.key == OF_WHOLE_POOL:
        halves = [wrong_sets.joined(halves)] * HALVES
    for number, half in enumerate(halves):
        rng = np.random.default_rng([seed, number])
        made.append(as_anndata(maker(half, strength, rng) if strength else half, batches=batches))
    return made


def score(real, sets):
    """Score sets with `evaluate`: {name: stores} to {name: {measure: {generated, floor, real}}}.

    All stores go into one evaluation, where each is one generated set: the floor does not depend on them, so it is
    measured once. Where a store lacks a type of the test cells, measures that its absence touches have `lacks`.
    """
    result = evaluate(real, [store for stores in sets.values() for store in stores], floor_sets=FLOOR_SETS, workers=1)
    wanted, values, first = set(real.obs.loc[real.obs["split"] == "test", "cell_type"]), {}, 0
    for name, stores in sets.items():
        generated = summarise(result["sets"]["generated"][first : first + len(stores)])
        lacks = any(wanted - set(store.obs["cell_type"]) for store in stores)
        values[name] = {
            key: {
                "generated": generated[key], "floor": row["floor"], "real": row["real"],
                "lacks": lacks and sees_absence(METRICS[key]),
            }
            for key, row in result["metrics"].items()
        }  # fmt: skip
        first += len(stores)
    return values


def measure(folder, name, keys, quick, seed):
    """One row for each of some faults and strength of a data set, and for strength 0."""
    cells = load(folder, SETS[name])
    test, train, halves = split(cells, seed)
    real = real_cells(test, train)
    sets = {("none", 0): [as_anndata(half) for half in halves]}
    for fault in FAULTS:
        if fault.key in keys and fault.key != BY_BATCH:
            for strength in fault.strengths[-1:] if quick else fault.strengths:
                sets[fault.key, strength] = make(fault, strength, halves, train, seed)
    say(f"{name}, split {seed}: {sum(map(len, sets.values()))} sets")
    found = score(real, sets)
    found["none", 0]["composition"]["generated"] = chance_composition(test, train, seed)
    if BY_BATCH in keys:
        fault = next(fault for fault in FAULTS if fault.key == BY_BATCH)
        strengths = (0, *(fault.strengths[-1:] if quick else fault.strengths))
        real = real_cells(test, train, batches=True)
        for strength in strengths:
            say(f"{name}, by batch {strength}")
            found[fault.key, strength] = score_groups(real, make(fault, strength, halves, train, seed))
    return [
        {"data": name, "seed": seed, "fault": fault, "strength": strength, "values": values}
        for (fault, strength), values in found.items()
    ]


def measured(args, name, seed):
    """The rows of a data set and a split: those kept, and those of the faults that they lack.

    Splits after the first are for the tolerances: of these, sets of strength 0 alone.
    """
    place = args.work / f"{name}-{seed}{'-quick' if args.quick else ''}.json"
    rows = json.loads(place.read_text())["rows"] if place.exists() else []
    wanted = [key for key in args.faults if key != BY_BATCH or SETS[name].batches] if seed == 0 else []
    missing = [key for key in wanted if key not in {row["fault"] for row in rows}]
    if missing or not rows:
        new = measure(args.folder, name, missing, args.quick, seed)
        rows = [row for row in rows if row["fault"] != "none"] + new
        place.parent.mkdir(parents=True, exist_ok=True)
        written = place.with_suffix(".part")
        written.write_text(json.dumps(about() | {"rows": rows}, default=float))
        written.replace(place)
    return rows


def score_groups(real, stores):
    """The groups of `evaluate` by batch, and by type and batch: {measure: {off, groups}}."""
    result = evaluate(real, stores, label="cell_type", floor_sets=FLOOR_SETS, workers=1)
    return {
        f"groups by {' and '.join(row['by'])}": {
            "off": sum(group["verdict"] == "off" for group in row["groups"]), "groups": len(row["groups"]),
        }
        for row in result["attributes"]
    }  # fmt: skip


def chance_composition(test, train, seed):
    """The composition, as `evaluate` gives it, of a store with the labels of random training cells.

    The sets of strength 0 have the composition of the test cells, as no generated store has.
    """
    kinds = np.unique(test.types)
    shares = [np.array([(cells.types == kind).mean() for kind in kinds]) for cells in (test, train)]
    drawn = np.random.default_rng([seed, 2]).multinomial(len(test), shares[1] / shares[1].sum()) / len(test)
    return {"mean": float(np.abs(drawn - shares[0]).sum() / 2), "sd": 0.0}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


METRICS = {metric.key: metric for metric in catalogue.METRICS}


def excess(key, row):
    """How much worse than the floor a value is, as the tolerance has it: at least 0, a share of the floor if so."""
    metric = METRICS[key]
    worse, _ = distance(metric, row["generated"], row["floor"], row["real"])
    if not math.isfinite(worse):
        return 0.0
    return max(worse, 0.0) / (abs(row["floor"]["mean"]) if metric.relative else 1.0)


def rounded_up(value):
    """To two digits."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)


def excesses(rows):
    """Measure → its excess in each set of strength 0."""
    found = defaultdict(list)
    for row in rows:
        if row["fault"] == "none":
            for key, values in row["values"].items():
                found[key].append(excess(key, values))
    return found


def tolerances(rows, margin=MARGIN):
    """Measure → tolerance: a multiple of the largest excess of sets of strength 0."""
    return {key: rounded_up(margin * max(each)) for key, each in excesses(rows).items()}


def left_out(rows, margin):
    """Measures that are off in each set of strength 0, by tolerances that the other ones set."""
    right, counts = [row for row in rows if row["fault"] == "none"], []
    for number, row in enumerate(right):
        near = tolerances(right[:number] + right[number + 1 :], margin)
        counts.append(sum(
            judge(replace(METRICS[key], near=near[key]), values["generated"], values["floor"], values["real"]) == "off"
            for key, values in row["values"].items()
        ))  # fmt: skip
    return counts


def verdicts(row):
    """Measure → verdict of a row, as `evaluate` has it; groups are off where more than a half of them are."""
    if row["fault"] == BY_BATCH:
        return {key: "off" if 2 * row["off"] > row["groups"] else "at" for key, row in row["values"].items()}
    return {
        key: "off" if values["lacks"] else judge(METRICS[key], values["generated"], values["floor"], values["real"])
        for key, values in row["values"].items()
    }


def first_seen(rows):
    """Markdown: for each fault and strength, how many measures are off on each data set, and which on all of them.

    Those that are off at a smaller strength already are not named again.
    """
    lines = [
        f"| fault | strength | {' | '.join(SETS)} | off on all, from this strength on |",
        "| --- | --- |" + " --- |" * (len(SETS) + 1),
    ]
    for fault in FAULTS:
        named = set()
        for strength in fault.strengths:
            found = {
                row["data"]: verdicts(row) for row in rows if (row["fault"], row["strength"]) == (fault.key, strength)
            }
            if not found:
                continue
            off = {name: {key for key, verdict in each.items() if verdict == "off"} for name, each in found.items()}
            counts = [str(len(off[name])) if name in off else "" for name in SETS]
            common = [key for key in all_keys(rows) if all(key in each for each in off.values()) and key not in named]
            named |= set(common)
            new = ", ".join(map(in_code, common))
            lines.append(f"| {fault.title} | {strength:g} | {' | '.join(counts)} | {new} |")
    return "\n".join(lines)


def all_keys(rows):
    """The measures of some rows: those of the catalogue in its order, then the groups."""
    found = {key for row in rows for key in row["values"]}
    return [key for key in METRICS if key in found] + sorted(found - set(METRICS))


def in_code(key):
    return f"`{key}`" if key in METRICS else key


def main():
    """Measure, and print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("folder", nargs="?", help="folder with the data sets")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print the tables of what is in --work")
    parser.add_argument("--splits", type=int, default=SPLITS, help=f"for the tolerances (default {SPLITS})")
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    keys = [fault.key for fault in FAULTS]
    parser.add_argument("--faults", nargs="+", default=keys, choices=keys, metavar="KEY", help="some of them alone")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/sensitivity"), help="figures, kept")
    args = parser.parse_args()
    if not args.tables and args.folder is None:
        parser.error("a folder is wanted, or --tables")
    if args.tables:
        rows = [row for file in sorted(args.work.glob("*.json")) for row in json.loads(file.read_text())["rows"]]
        if not rows:
            raise SystemExit(f"{args.work}: no figures there")
    else:
        splits = range(1 if args.quick else args.splits)
        rows = [row for seed in splits for name in args.data for row in measured(args, name, seed)]
    report(args, {"rows": rows})
    largest = {key: max(each) for key, each in excesses(rows).items()}
    print(f"Tolerances, from {sum(row['fault'] == 'none' for row in rows)} sets of strength 0\n")
    for key, near in tolerances(rows).items():
        print(f"{key:18s} near {near:<8g} today {METRICS[key].near:<8g} largest excess {largest[key]:.2g}")
    for margin in (1, 1.5, 2, 3):
        print(f"left out, margin {margin}: {np.mean(left_out(rows, margin)):.2f} measures off")
    print(f"\n{first_seen(rows)}")


if __name__ == "__main__":
    main()
