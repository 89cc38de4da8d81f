"""Which cells an expression over obs chooses: SOMA's value-filter syntax, for every source, evaluated here.

`tissue == "lung" and n_genes > 500`: comparisons of a column with values, `in [...]`, `and`, `or`, `not` (and `&`, `|`,
`~`), parentheses, text, numbers, True and False. `attr("cell type")` is a column whose name is no Python name. A column
of bools may stand alone. A cell without a value passes no comparison. Only these words are known; nothing is executed.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.labels import factorized, label_codes
from data_loaders.types import Array, Bools

LONGEST = 1_000_000  # characters; lists of many values are written by programs
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
}  # fmt: skip
KNOWN = "expected comparisons of obs columns, such as tissue == 'lung' and n_genes > 500"
TRUTH = {"true": True, "false": False}


class ObsFilter:
    """A filter that was read.

    Parameters
    ----------
    text : str
        The expression.
    name : str
        Of what it chooses from, for messages.

    Attributes
    ----------
    columns : list of str
        obs columns that it needs.

    Raises
    ------
    BadInput
        It is no such expression.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.columns: list[str] = []
        if len(text) > LONGEST:
            raise BadInput(f"{name}: an obs filter of {len(text):,} characters; expected at most {LONGEST:,}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self._look(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, BadInput):
                raise
            reason = error.msg if isinstance(error, SyntaxError) else "nested too deeply or not text"
            raise self._refused(reason) from error

    def check_columns(self, known: Sequence[str]) -> None:
        """Raise `BadInput` when a column is not among the known ones."""
        for column in self.columns:
            if column not in known:
                raise BadInput(
                    f"{self.name}: no obs column {column!r} for the obs filter {self.text!r}; {nearest(column, known)}"
                )

    def passes(self, obs: pd.DataFrame) -> Bools:
        """Which cells pass, bool (n,).

        Raises
        ------
        BadInput
            A column is missing, or a value is of another kind than its column.
        """
        self.check_columns([str(column) for column in obs.columns])
        return self._evaluate(self._tree, obs)

    def none_passes(self, obs: pd.DataFrame | None = None) -> BadInput:
        """The error for a filter that no cell passes; `obs` lets it say which value is not there."""
        absent = "" if obs is None else self._absent(obs)
        return BadInput(f"{self.name}: no cell passes the obs filter {self.text!r}{absent}")

    def _look(self, node: ast.expr) -> None:
        """Note the columns, and refuse what is not known."""
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self._look(value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            self._look(node.left)
            self._look(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            self._look(node.operand)
        elif isinstance(node, ast.Compare):
            for left, compare, right in _pairs(node):
                self._oriented(left, compare, right)
        elif _column(node) is not None:
            self._note(node)
        else:
            raise self._refused(f"{ast.unparse(node)!r} is neither a comparison nor a column")

    def _note(self, node: ast.expr) -> str:
        column = str(_column(node))
        if column not in self.columns:
            self.columns.append(column)
        return column

    def _oriented(self, left: ast.expr, compare: ast.cmpop, right: ast.expr) -> tuple[str, type[ast.cmpop], Any]:
        """(column, comparison, value) of a comparison, its column on either side."""
        kind = type(compare)
        if kind in (ast.In, ast.NotIn):
            if _column(left) is None or not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._refused(f"{ast.unparse(left)!r} in {ast.unparse(right)!r}: expected a column and a list")
            return self._note(left), kind, [self._value(value) for value in right.elts]
        if kind not in COMPARISONS:
            raise self._refused("'is' compares nothing here: use ==")
        if _column(left) is None:
            left, right, kind = right, left, MIRRORED.get(kind, kind)
        if _column(left) is None or _column(right) is not None:
            raise self._refused(f"{ast.unparse(left)!r} beside {ast.unparse(right)!r}: expected a column and a value")
        return self._note(left), kind, self._value(right)

    def _value(self, node: ast.expr) -> Any:
        """The value of a constant."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "val" and node.args:
            return self._value(node.args[0])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            number = self._value(node.operand)
            if isinstance(number, int | float) and not isinstance(number, bool):
                return -number if isinstance(node.op, ast.USub) else number
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool):
            return node.value
        raise self._refused(f"{ast.unparse(node)!r} is no value: expected text, a number, True or False")

    def _evaluate(self, node: ast.expr, obs: pd.DataFrame) -> Bools:
        if isinstance(node, ast.BoolOp):
            parts = [self._evaluate(value, obs) for value in node.values]
            both: Bools = np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
            return both
        if isinstance(node, ast.BinOp):
            one, other = self._evaluate(node.left, obs), self._evaluate(node.right, obs)
            return one & other if isinstance(node.op, ast.BitAnd) else one | other
        if isinstance(node, ast.UnaryOp):
            return ~self._evaluate(node.operand, obs)
        if isinstance(node, ast.Compare):
            passed = np.ones(len(obs), bool)
            for left, compare, right in _pairs(node):
                passed &= self._compared(obs, *self._oriented(left, compare, right))
            return passed
        return self._compared(obs, str(_column(node)), ast.Eq, True)

    def _compared(self, obs: pd.DataFrame, column: str, kind: type[ast.cmpop], value: Any) -> Bools:
        """Which cells a comparison holds for. Of text and categories each distinct value is compared once."""
        codes, distinct = _distinct(obs[column])
        found, values = self._alike(column, distinct, value if isinstance(value, list) else [value])
        if kind in (ast.In, ast.NotIn):
            holds = np.array([one in values for one in found], bool) ^ (kind is ast.NotIn)
        else:
            holds = np.array([COMPARISONS[kind](one, values[0]) for one in found], bool)
        passed: Bools = np.append(holds, False)[codes]  # code -1, no value, takes the last entry
        return passed

    def _alike(self, column: str, found: Array, values: list[Any]) -> tuple[list[Any], list[Any]]:
        """Values of a column and of the filter as the same type: text, numbers or truth."""
        sorts = {_sort(value) for value in values}
        for sort in sorted(sorts):
            held = {_sort(one) for one in found}
            if held <= {sort}:
                continue
            if sort == "True or False":
                truth = [TRUTH.get(str(one).casefold(), one == 1 if one in (0, 1) else None) for one in found]
                if None not in truth:
                    return truth, values
            what = " and ".join(sorted(held - {sort}))
            shown = next(value for value in values if _sort(value) == sort)
            raise BadInput(
                f"{self.name}: obs column {column!r} holds {what}, and the obs filter {self.text!r} compares it with "
                f"{shown!r}; expected {what} such as {found[0]!r}"
            )
        return list(found), values

    def _absent(self, obs: pd.DataFrame) -> str:
        """Words about the first text that the filter asks a column for and that no cell has."""
        for node in ast.walk(self._tree):
            for left, compare, right in _pairs(node) if isinstance(node, ast.Compare) else ():
                column, kind, value = self._oriented(left, compare, right)
                wanted = value if isinstance(value, list) else [value]
                known = label_codes(obs[column])[1] if kind in (ast.Eq, ast.In) else []
                for text in wanted:
                    if known and isinstance(text, str) and text not in known:
                        return f"; {column!r} has no {text!r}, {nearest(text, known)}"
        return ""

    def _refused(self, reason: str) -> BadInput:
        return BadInput(f"{self.name}: obs filter {self.text[:200]!r} cannot be used ({reason}); {KNOWN}")


def _pairs(node: ast.Compare) -> list[tuple[ast.expr, ast.cmpop, ast.expr]]:
    """The comparisons of a chain: 1 < n < 5 is two."""
    sides = [node.left, *node.comparators]
    return list(zip(sides[:-1], node.ops, sides[1:], strict=True))


def _column(node: ast.expr) -> str | None:
    """The name of a column: a word, or attr("words")."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "attr":
        given = node.args[0] if len(node.args) == 1 and not node.keywords else None
        return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None
    return None


def _distinct(column: pd.Series) -> tuple[Array, Array]:
    """Codes of the cells, -1 for no value, and the distinct values."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.codes), np.asarray(column.cat.categories, dtype=object)
    codes, found = factorized(column.array)
    return codes, np.asarray(found, dtype=object)


def _sort(value: Any) -> str:
    """What kind of value it is, in words."""
    if isinstance(value, bool | np.bool_):
        return "True or False"
    return "numbers" if isinstance(value, int | float | np.number) else "text"
