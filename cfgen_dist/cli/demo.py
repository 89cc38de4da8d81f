"""`cfgen-dist demo`."""


def configure(parser):
    """Add the arguments."""
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything it makes (default: demo)")


def run(args):
    """Run the demo."""
    from cfgen_dist.demo import demo

    report = demo(args.out)
    print(f"report: {report.resolve()}")
