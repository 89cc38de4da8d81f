"""`cfgen-dist translate` as a Ray job: its workers are those of the cluster that runs it.

    ray job submit --working-dir . -- python jobs/translate.py BUNDLE ATLAS OUT --to batch=NAME

The paths are addresses in a bucket, or on a disk that all machines of the cluster see.
All options and exit codes of the command.
"""

import sys

from cfgen_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["translate", "--ray", "auto", *sys.argv[1:]]))
