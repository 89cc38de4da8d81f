"""`cfgen-dist evaluate` as a Ray job: its workers are those of the cluster that runs it.

    ray job submit --working-dir . -- python jobs/evaluate.py ATLAS GENERATED --out DIR

The paths are addresses in a bucket, or on a disk that all machines of the cluster see.
All options and exit codes of the command.
"""

import sys

from cfgen_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", "--ray", "auto", *sys.argv[1:]]))
