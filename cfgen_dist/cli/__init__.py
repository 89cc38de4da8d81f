"""The command line: one module a command, imported only when that command is called.

Each module `cfgen_dist.cli.NAME` has two functions: `configure(parser)` adds the arguments, `run(args)` does the work.
Exit codes: 0 done, 2 bad input or arguments, 1 anything else, 130 interrupted.
"""

import argparse
import errno
import importlib
import importlib.metadata
import logging
import sys

from data_loaders.errors import BadInput, nearest

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # no mistake in the arguments
COMMANDS = {
    "demo": "train, generate and evaluate on the built-in data",
    "simulate": "write a synthetic atlas of any size with known truth",
    "ingest": "turn h5ad, 10x or Zarr counts into an atlas",
    "describe": "print the card of an atlas, a run or a model bundle",
    "plan": "say how long a training takes, and how much memory",
    "train": "train autoencoder and flow on an atlas",
    "tune": "search hyper-parameters for an atlas on a Ray cluster",
    "generate": "draw synthetic cells from a model bundle",
    "augment": "add generated cells of rare types to an atlas",
    "guide": "try guidance weights: aim and diversity of the cells they make",
    "translate": "carry real cells to another label, such as another batch",
    "classify": "ask whether cell-type classifiers gain from augmentation",
    "evaluate": "compare generated cells with real ones",
    "export": "write an atlas, real or generated, as h5ad or TileDB-SOMA",
}


def main(argv=None):
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        The arguments, `sys.argv[1:]` by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("cfgen_dist").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(
        prog="cfgen-dist", description="Train CFGen on single-cell counts and generate synthetic atlases."
    )
    parser.add_argument("--version", action="version", version=f"cfgen-dist {importlib.metadata.version('cfgen-dist')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules, commands = {}, {}
    named = next((word for word in argv if not word.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        parser.error(f"unknown command {named!r}, {nearest(named, COMMANDS)}")
    for name, summary in COMMANDS.items():
        commands[name] = subparsers.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        if name == named:
            modules[name] = importlib.import_module(f"cfgen_dist.cli.{name}")
            modules[name].configure(commands[name])
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        option = unknown[0].partition("=")[0]
        valid = [word for action in commands[args.command]._actions for word in action.option_strings]
        parser.error(f"{args.command}: unknown argument {option!r}, {nearest(option, valid)}")
    try:
        modules[args.command].run(args)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"error: {error.filename or args.command}: {error.strerror or error}", file=sys.stderr)
        return 1 if error.errno in FULL else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
