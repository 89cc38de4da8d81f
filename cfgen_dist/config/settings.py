"""Every key of a model as one row: what it means, what it may be, what it is by default."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

ITEMS = {"integer": "whole numbers", "string": "names"}
TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


@dataclass(frozen=True)
class Setting:
    """One key of the config.

    Attributes
    ----------
    key : str
        Dotted, such as `flow.batch_size`.
    meaning : str
    kind : {"integer", "number", "boolean", "string", "array", "object"}
        As JSON schema calls the type.
    type : str
        The type in words; the choices where there are some.
    range : str
        What the value must be beyond its type; empty when any value will do.
    choices : tuple of str
    optional : bool
        Whether `null` will do, too.
    default : object
    """

    key: str
    meaning: str
    kind: str
    type: str
    range: str
    choices: tuple[str, ...]
    optional: bool
    default: Any

    @property
    def group(self) -> str:
        """The part before the dot; empty for keys at the top."""
        return self.key.rpartition(".")[0]

    @property
    def allowed(self) -> str:
        """Type and range in words, such as `a whole number, at least 1`."""
        words = self.range if self.range.startswith("a ") else ", ".join(filter(None, (self.type, self.range)))
        return f"{words}, or null" if self.optional else words


@functools.cache
def settings_of(model: type[BaseModel]) -> dict[str, Setting]:
    """Dotted key → Setting, in the order of their definition; keys of nested models as `group.key`."""
    schema = model.model_json_schema()
    return {setting.key: setting for setting in _rows(schema, schema.get("$defs", {}), "")}


def value_text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={item}" for name, item in value.items()) or "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rows(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[Setting]:
    for name, field in schema["properties"].items():
        if "$ref" in field:
            group = definitions[field["$ref"].rpartition("/")[2]]
            yield from _rows(group, definitions, f"{prefix}{name}.")
            continue
        value = next((each for each in field.get("anyOf", []) if each["type"] != "null"), field)
        yield Setting(
            prefix + name, field["description"], value["type"], _type(value), _range(value),
            tuple(value.get("enum", ())), "anyOf" in field, field["default"],
        )  # fmt: skip


def _type(value: dict[str, Any]) -> str:
    if "enum" in value:
        return f"one of {', '.join(value['enum'])}"
    if value["type"] == "array":
        return f"a list of {ITEMS[value['items']['type']]}"
    return "pairs such as atac=bernoulli" if value["type"] == "object" else TYPES[value["type"]]


def _range(value: dict[str, Any]) -> str:
    if value["type"] == "object":
        return f"each {_type(value['additionalProperties'])}"
    if value["type"] == "array":
        of_items = _range(value["items"])
        return f"each {of_items}" if of_items else ""
    least, most = value.get("minimum"), value.get("maximum")
    if most is not None:
        ends = f"{least} to {'2**63 - 1' if most == 2**63 - 1 else most}"
        return ends if value["type"] == "integer" else f"a number from {ends}"
    if "exclusiveMaximum" in value:
        return f"at least {least} and below {value['exclusiveMaximum']}"
    if "exclusiveMinimum" in value:
        return "a positive number"
    if least is None:
        return ""
    return "zero or more" if least == 0 else f"at least {least}"
