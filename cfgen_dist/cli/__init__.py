"""The command line: one module a command, imported only when that command is called.

Each module `cfgen_dist.cli.COMMAND` has two functions: `configure(parser)` adds the arguments, `run(args)` does the
work. At their tops they import nothing heavy, so that --help answers at once: what does the work is imported in `run`.
Exit codes: 0 done, 2 bad input or arguments, 1 anything else, 130 interrupted, 143 stopped by SIGTERM.
"""

import argparse
import errno
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cfgen_dist.cli.storage import add_storage, storage_of
from cfgen_dist.cli.words import in_options
from data_loaders.errors import BadInput, Interrupted, WorkFailed, nearest

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
    "audit": "ask whether generated cells betray training cells or donors",
    "verify": "compare a store, a run or a bundle with its checksums, generated cells with their origin",
    "export": "write an atlas, real or generated, as h5ad, h5mu or TileDB-SOMA",
}


class Parser(argparse.ArgumentParser):
    """Refuses in one line, like everything else here; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        The arguments, `sys.argv[1:]` by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("cfgen_dist", "data_loaders"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        return _run(argv)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except WorkFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `cfgen-dist describe ... | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"error: {error.filename or argv[0]}: {error.strerror or error}", file=sys.stderr)
        return 1 if error.errno in FULL else 2
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return error.code if isinstance(error, Interrupted) else 130


def _run(argv: list[str]) -> int:
    """Parse the words and run the command that they name."""
    parser = Parser(prog="cfgen-dist", description="Train CFGen on single-cell counts and generate synthetic atlases.")
    parser.add_argument(
        "-V", "--version", action="version", version=f"cfgen-dist {importlib.metadata.version('cfgen-dist')}"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {
        name: subparsers.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        for name, summary in COMMANDS.items()
    }
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv[:1])  # --help and --version end here, and anything else is refused
    name = argv[0]
    if name not in COMMANDS:
        parser.error(f"unknown command {name!r}, {nearest(name, COMMANDS)}")
    module, command = importlib.import_module(f"cfgen_dist.cli.{name}"), commands[name]
    module.configure(command)
    add_storage(command)
    # Intermixed, so that options may stand between SRC... and OUT.
    args, unknown = command.parse_known_intermixed_args(argv[1:])
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            command.error(f"{name}: {word!r} is one argument too many")
        valid = [option for action in command._actions for option in action.option_strings]
        command.error(f"{name}: unknown argument {word!r}, {nearest(word, valid)}")
    try:
        with storage_of(args):
            module.run(args)
    except (BadInput, WorkFailed) as error:  # of the library, which speaks Python
        raise type(error)(in_options(str(error), command, COMMANDS)) from error
    except Interrupted as error:
        raise Interrupted(in_options(str(error), command, COMMANDS), error.code) from error
    sys.stdout.flush()  # here, where a closed pipe can still be answered
    return 0
