"""Values that several commands read the same way."""

from data_loaders.errors import BadInput


def pairs(text, option, kind=str):
    """Read `a=1,b=2` as a dict.

    Raises
    ------
    BadInput
        A piece without `=`, a name given twice, a value that is not of `kind`.
    """
    values = {}
    for piece in (text or "").split(",") if text else []:
        name, equals, value = piece.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadInput(f"{option} has {piece!r}, expected NAME=VALUE")
        if name.strip() in values:
            raise BadInput(f"{option} gives {name.strip()!r} twice")
        try:
            values[name.strip()] = kind(value.strip())
        except ValueError:
            raise BadInput(f"{option} has {value.strip()!r} for {name.strip()}, expected a {kind.__name__}") from None
    return values
