"""The words of the command line in the place of those of Python, in messages of the library."""

import argparse
import ast
import re
from collections.abc import Container

PYTHON = re.compile(r"`([a-z]\w*)(?:(\(\))|=([^`]*))?`")  # `argument`, `argument=value` or `function()`


def in_options(message: str, parser: argparse.ArgumentParser, commands: Container[str]) -> str:
    """A message as the user of a command needs it; see `data_loaders.errors.BadInput` for how messages are written.

    Parameters
    ----------
    message : str
    parser : argparse.ArgumentParser
        Of the command. An argument of Python is the option with this name as its `dest`.
    commands : container of str
        Names of all commands.

    Returns
    -------
    str
        `` `drop_empty=True` `` has become `--drop-empty`, `` `join='outer'` `` has become `--join outer`, an argument
        without an option its metavar, and `` `ingest()` `` has become `` `cfgen-dist ingest` ``. What the command does
        not know stays.
    """
    actions = {action.dest: action for action in parser._actions}

    def words(match: re.Match[str]) -> str:
        name, is_function, value = match.groups()
        if is_function:
            return f"`cfgen-dist {name}`" if name in commands else match[0]
        if name not in actions:
            return match[0]
        action = actions[name]
        option = action.option_strings[-1] if action.option_strings else str(action.metavar or name.upper())
        is_flag = action.nargs == 0
        return option if value is None or is_flag else f"{option} {_unquoted(value)}"

    return PYTHON.sub(words, message)


def _unquoted(value: str) -> str:
    """The text of a Python string, other values as they are."""
    try:
        return str(ast.literal_eval(value)) if value[:1] in ("'", '"') else value
    except (SyntaxError, ValueError):
        return value
