"""`cfgen-dist simulate`: write a synthetic atlas with known truth."""

import argparse

from cfgen_dist.cli.values import whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("out", metavar="OUT", help="the store to write; must not exist")
    parser.add_argument("--cells", type=whole, required=True, metavar="N", help="number of cells")
    parser.add_argument("--genes", type=int, required=True, metavar="G", help="number of genes")
    parser.add_argument("--types", type=int, default=8, metavar="K", help="cell types (default 8)")
    parser.add_argument("--donors", type=int, default=4, metavar="D", help="donors, with batch effects (default 4)")
    parser.add_argument("--peaks", type=int, default=0, metavar="P", help="peaks, as the modality atac (default none)")
    parser.add_argument("--density", type=float, default=0.07, metavar="F", help="share of non-zeros (default 0.07)")
    parser.add_argument("--in-order", action="store_true", help="put the cells of one type together")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of all random numbers (default 0)")


def run(args: argparse.Namespace) -> None:
    """Write the atlas."""
    import data_loaders

    card = data_loaders.simulate(
        args.out,
        cells=args.cells,
        genes=args.genes,
        types=args.types,
        donors=args.donors,
        peaks=args.peaks,
        density=args.density,
        in_order=args.in_order,
        seed=args.seed,
    )
    print(f"{args.out}: {card['n_cells']:,} cells x {card['n_genes']:,} genes, {card['density']:.1%} non-zero")
