"""Does an audit give 0.5 where nothing is to be found? Donors of an atlas are dealt anew, many times.

    python benchmarks/audit.py ATLAS --by donor --draws 60

In each draw a fifth of the donors are held out, others train, and the cells of the remaining ones, whom neither side
knows, are given away. Attacks on members must then give 0.5 on average: table of means over draws and their standard
errors. In the place of the floor the cells given away are those of donors that train.
"""

import argparse

import anndata as ad
import numpy as np
import pandas as pd

from cfgen_dist.privacy import attacks, planted
from cfgen_dist.privacy.run import audit
from data_loaders import open_atlas

HELD_OUT, GIVEN_AWAY = 0.2, 0.3  # shares of the donors


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas")
    parser.add_argument("--by", default="donor")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--draws", type=int, default=60)
    args = parser.parse_args()
    attacks.REPLICATES, planted.SHARES = 20, ()  # neither intervals nor planted leaks are looked at
    atlas = open_atlas(args.atlas)
    counts = atlas.read_sparse(np.arange(atlas.n_cells)).to_scipy()
    columns = {name: np.array(atlas.categories(name))[atlas.codes(name)] for name in (args.label, args.by)}
    cells = ad.AnnData(counts, pd.DataFrame(columns).astype("category").rename(str), pd.DataFrame(index=atlas.genes))
    rows = []
    for draw in range(args.draws):
        found = audit(*deal(cells, args.by, draw), by=args.by, label=args.label, seed=draw)
        values = {name: row["value"] for name, row in found["generated"].items()}
        rows.append(values | {f"floor: {name}": row["value"] for name, row in found["floor"].items()})
    table = pd.DataFrame(rows)
    print(pd.DataFrame({"mean": table.mean(), "standard error": table.sem()}).round(3).to_string())


def deal(cells: ad.AnnData, by: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Real cells, of donors that train and of held-out ones, and the cells of other donors that are given away."""
    donors = np.random.default_rng(seed).permutation(cells.obs[by].cat.categories)
    held_out, given_away = (int(share * len(donors)) for share in (HELD_OUT, GIVEN_AWAY))
    away = cells.obs[by].isin(donors[held_out : held_out + given_away]).to_numpy()
    real = cells[~away].copy()
    real.obs["split"] = np.where(real.obs[by].isin(donors[:held_out]), "test", "train")
    return real, cells[away].copy()


if __name__ == "__main__":
    main()
