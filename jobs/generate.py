"""`cfgen-dist generate` as a Ray job: its workers are those of the cluster that runs it.

    ray job submit --working-dir . -- python jobs/generate.py BUNDLE OUT --cells 10000000

BUNDLE and OUT are addresses in a bucket, or paths on a disk that all machines of the cluster see.
All options and exit codes of the command.
"""

import sys

from cfgen_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", "--ray", "auto", *sys.argv[1:]]))
