"""The words of the command line in the place of those of Python, in messages of the library."""

import argparse
import ast
import importlib
import re
from collections.abc import Container, Mapping

PYTHON = re.compile(r"`([a-z]\w*)(?:\(([^`]*)\)|=([^`]*))?`")  # `argument`, `argument=value` or `function(...)`
Options = Mapping[str, argparse.Action]  # by the name of the Python argument


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
        without an option its metavar, and `` `ingest(SRC, drop_empty=True)` `` has become
        `` `cfgen-dist ingest SRC --drop-empty` ``. What the command does not know stays.
    """
    options = _options(parser)

    def words(match: re.Match[str]) -> str:
        name, arguments, value = match.groups()
        if arguments is not None:
            return _call(name, arguments) if name in commands else match[0]
        return _option(options[name], value) if name in options else match[0]

    return PYTHON.sub(words, message)


def _options(parser: argparse.ArgumentParser) -> Options:
    return {action.dest: action for action in parser._actions}


def _option(action: argparse.Action, value: str | None) -> str:
    """An option as it is typed; `value` is a Python expression."""
    option = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest.upper())
    is_flag = action.nargs == 0
    if value is None or is_flag:
        return option
    return " ".join(f"{option} {_unquoted(one)}" for one in _several(value))


def _several(value: str) -> list[str]:
    """A Python list as its elements, other values alone: an option is given once for each."""
    try:
        listed = ast.parse(value, mode="eval").body if value[:1] == "[" else None
    except SyntaxError:
        return [value]
    return [ast.unparse(one) for one in listed.elts] if isinstance(listed, ast.List) else [value]


def _call(name: str, arguments: str) -> str:
    """A command as it is typed, of the arguments of a call."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"cfgen_dist.cli.{name}").configure(parser)
    options = _options(parser)
    call = ast.parse(f"_({arguments})", mode="eval").body
    words = [f"cfgen-dist {name}"]
    if isinstance(call, ast.Call):
        words += [_unquoted(ast.unparse(value)) for value in call.args]
        words += [_option(options[str(given.arg)], ast.unparse(given.value)) for given in call.keywords]
    return f"`{' '.join(words)}`"


def _unquoted(value: str) -> str:
    """The text of a Python string, other values as they are."""
    try:
        return str(ast.literal_eval(value)) if value[:1] in ("'", '"') else value
    except (SyntaxError, ValueError):
        return value
