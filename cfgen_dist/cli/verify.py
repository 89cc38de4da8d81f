"""`cfgen-dist verify`."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "store", metavar="STORE|RUN|BUNDLE", help="an atlas, real or generated, latents, a run, a bundle"
    )
    parser.add_argument(
        "--run", metavar="RUN", help="make shards of a generated store again with the model of this run"
    )
    parser.add_argument("--shards", type=int, metavar="K", help="how many, chosen at random (default 3)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="chooses the shards (default 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads; one a core by default")


def run(args: argparse.Namespace) -> None:
    """Verify, and print what was compared."""
    from cfgen_dist.verification.run import verify

    report = verify(args.store, args.run, args.shards, seed=args.seed, workers=args.workers)
    print(f"{report['path']}: {report['kind']}, sound")
    print(f"  {report['files']:,} files, {report['bytes'] / 1e6:,.1f} MB compared with their checksums")
    for name in report["unchecked"]:
        print(f"  {name}: written without checksums of its files; read, and nothing wrong found")
    if "shards" in report:
        shards = ", ".join(map(str, report["shards"]))
        print(f"  {report['cells']:,} cells made again from model and plan, equal to the byte: shards {shards}")
