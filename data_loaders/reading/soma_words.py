"""What tiledbsoma's errors mean, in words: objects that are no experiment."""

from collections.abc import Iterator
from typing import Any

DEPTH = 4  # of collections in collections that are looked through


def of_object(uri: str, context: Any, error: BaseException) -> str:
    """What is at a path in place of an experiment, and which experiments are inside."""
    import tiledbsoma

    try:
        with tiledbsoma.open(uri, context=context) as found:
            kind = type(found).__name__
            inside = list(_experiments(found, uri.rstrip("/"))) if isinstance(found, tiledbsoma.Collection) else []
    except Exception:  # it is nothing of SOMA's, or damaged: the first error says more
        return f"not a SOMA experiment ({one_line(error)})"
    if inside:
        return f"a SOMA collection; expected one of the experiments in it: {', '.join(inside)}"
    return f"a SOMA {kind} without an experiment in it; expected a SOMA experiment"


def _experiments(collection: Any, path: str, depth: int = DEPTH) -> Iterator[str]:
    """Paths of the experiments in a collection and its collections."""
    import tiledbsoma

    for name in sorted(collection):
        member = collection[name]
        if isinstance(member, tiledbsoma.Experiment):
            yield f"{path}/{name}"
        elif isinstance(member, tiledbsoma.Collection) and depth > 1:
            yield from _experiments(member, f"{path}/{name}", depth - 1)


def one_line(error: BaseException) -> str:
    """An error as part of a line, without the Python files that it came through."""
    text = " ".join(str(error).split()).split(" At: ")[0].split(" Invoked with: ")[0]
    return text.removeprefix("SOMAError: ")[:200]
