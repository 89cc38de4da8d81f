"""`python -m cfgen_dist` and the console script `cfgen-dist` are the same program."""

import sys
from typing import NoReturn

from cfgen_dist.cli import main


def run() -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
