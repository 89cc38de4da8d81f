"""The keys of the config as options of a command, explained section by section in its help."""

import argparse
from typing import Any

from cfgen_dist.config import Setting, groups, settings, value_text

METAVARS = {"integer": "N", "number": "X", "boolean": "true|false", "string": "NAME", "array": "A,B", "object": "K=V"}
MOST_SHOWN = 3  # choices in place of a value
PREFIX = "config:"  # of the names that argparse keeps the values under


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each key of the config, such as `--flow.batch_size N`."""
    about = {"": "Each overrides one key of the config; docs/settings.md lists them, too."} | groups()
    for group, text in about.items():
        section = parser.add_argument_group(f"settings: {group}" if group else "settings", text)
        for setting in settings().values():
            if setting.group == group:
                section.add_argument(
                    f"--{setting.key}", dest=PREFIX + setting.key, metavar=_metavar(setting), help=_help(setting)
                )


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given: dotted key → text."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in vars(args).items()
        if key.startswith(PREFIX) and value is not None
    }


def _metavar(setting: Setting) -> str:
    """The choices where they are few, a letter for the type otherwise."""
    return "|".join(setting.choices) if 0 < len(setting.choices) <= MOST_SHOWN else METAVARS[setting.kind]


def _help(setting: Setting) -> str:
    facts = [f"default {value_text(setting.default)}"]
    if setting.allowed.replace("one of ", "").replace(", ", "|") != _metavar(setting) and setting.kind != "boolean":
        facts.insert(0, setting.allowed)
    return f"{setting.meaning} ({'; '.join(facts)})".replace("%", "%%")
