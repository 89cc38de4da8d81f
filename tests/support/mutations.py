"""Records as nobody should write them: a valid tree of JSON with one thing wrong, and files that are no files."""

import copy
import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# What a file may be in place of a record.
ODD_FILES = ("empty", "cut", "folder", "pipe", "latin", "deep", "flipped", "twice", "huge number", "missing")
WRONG = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf"), 1e308, "", "x", "\0", "é",
    "\ud800", "a" * 5000, "../..", [], [[]], {}, {"a": {}}, [None], [1, "x"], "a\nb", "[bold]", -(2**63),
)  # fmt: skip
# The same examples each time, so that a test fails for what was changed; FUZZ=1 looks for others.
SAME = not os.environ.get("FUZZ")
FAST = settings(
    max_examples=25, deadline=None, database=None, derandomize=SAME, suppress_health_check=list(HealthCheck)
)
LONG = settings(FAST, max_examples=1500)


def places(tree, path=()):
    """Every place in a tree, as a path of keys."""
    yield path
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in inside:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, valid):
    """`valid` with one thing deleted, replaced, nested deep, renamed, added, or repeated."""
    tree = {"root": copy.deepcopy(valid)}
    path = ("root", *draw(st.sampled_from(list(places(valid)))))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    how = draw(st.sampled_from(("delete", "wrong", "wrong", "deep", "rename", "add", "repeat")))
    if how == "delete" and len(path) > 1:
        del parent[key]
    elif how == "rename" and isinstance(parent, dict) and len(path) > 1:
        parent[draw(st.sampled_from(("", "x", "\0", "self", "é")))] = parent.pop(key)
    elif how == "add" and isinstance(parent[key], dict):
        parent[key][draw(st.sampled_from(("", "x", "cells", "__class__")))] = draw(st.sampled_from(WRONG))
    elif how == "repeat" and isinstance(parent[key], list) and parent[key]:
        parent[key].append(parent[key][0])
    elif how == "deep":
        value = parent[key]
        for _ in range(draw(st.sampled_from((3, 70, 500)))):
            value = [value]
        parent[key] = value
    else:
        parent[key] = draw(st.sampled_from(WRONG))
    return tree["root"]


def write_odd(path, text, kind):
    """Put something at `path` that is no such file; `text` is what a valid one holds."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    whole = text.encode()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        content = {
            "empty": b"", "cut": whole[: len(whole) // 2], "latin": b"\xff\xfe" + whole, "deep": b"[" * 200_000,
            "flipped": whole[:1] + bytes([whole[1] ^ 64]) + whole[2:], "huge number": b'{"a": ' + b"9" * 9000 + b"}",
            "twice": b'{"a": 1, "a": 2}',
        }[kind]  # fmt: skip
        path.write_bytes(content)


def as_text(tree):
    """JSON, with NaN and half characters where they are."""
    return json.dumps(tree)
