"""`cfgen-dist tune` as a Ray job: its trials run on the cluster that runs it.

    ray job submit --working-dir . -- python jobs/tune.py ATLAS --out RUN --trials 50

ATLAS and RUN are addresses in a bucket, or paths on a disk that all machines of the cluster see.
All options and exit codes of the command.
"""

import sys

from cfgen_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", "--ray", "auto", *sys.argv[1:]]))
