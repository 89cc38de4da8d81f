"""The number at which a growing quantity reaches what is wanted."""

from collections.abc import Callable

HALVINGS = 49


def bisect(low: float, high: float, is_too_low: Callable[[float], bool]) -> float:
    """The middle of what is left of [low, high] after `HALVINGS` halvings."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_low(middle) else (low, middle)
    return (low + high) / 2
