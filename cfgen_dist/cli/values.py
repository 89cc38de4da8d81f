"""Values that several commands read the same way."""

import argparse
from decimal import Decimal, InvalidOperation

from data_loaders.errors import BadInput


def pairs(text: str | None, option: str) -> dict[str, str]:
    """Read `a=1,b=2` as a dict, which is empty without text.

    Raises
    ------
    BadInput
        A piece without `=`, or a name given twice.
    """
    values: dict[str, str] = {}
    for piece in text.split(",") if text else []:
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not name or not value:
            raise BadInput(f"{option} has {piece!r}, expected NAME=VALUE")
        if name in values:
            raise BadInput(f"{option} gives {name!r} twice")
        values[name] = value
    return values


def weights(text: str | None, option: str) -> dict[str, float]:
    """Read `a=1,b=2.5` as a dict of numbers; as `pairs`, and BadInput for a value that is no number."""
    values = {}
    for name, value in pairs(text, option).items():
        try:
            values[name] = float(value)
        except ValueError:
            raise BadInput(f"{option} has {value!r} for {name}, expected a number") from None
    return values


def whole(text: str) -> int:
    """Read a whole number as people type large ones: `5000`, `50_000`, `1e6`, `2.5e9`; for argparse."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number.adjusted() > 30 or number != number.to_integral_value():
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}")
    return int(number)
