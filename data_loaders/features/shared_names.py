"""Whether files that are to be joined share the names of their features, and what would match if they do not.

Files that name the same genes in two ways (symbols here, Ensembl identifiers there) share no names. Joined, they would
lose their genes, or have each of them twice. So a file of whose names hardly any are in the others is refused.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.features.gene_names import INDEX

MIN_SHARED = 0.1  # of the smaller list; the genes of a panel are all in a transcriptome, and two panels share some
VERSION = re.compile(r"^([A-Z]{2,}[A-Z_]*\d{4,})\.\d+$")  # ENSG00000141510.12, NM_000546.6
MOST_COLUMNS = 12  # of a table, tried as other names
SHOWN = 3  # sources, in notes
MAIN = "genes"  # what `var_names` names


class Match(NamedTuple):
    """Names of two tables that fit.

    Attributes
    ----------
    columns : (str, str)
    n_shared : int
    form : str
        What was done to the names, one of `FORMS`.
    is_unique : bool
        Whether both columns name every feature, and no two alike.
    """

    columns: tuple[str, str]
    n_shared: int
    form: str
    is_unique: bool


class Column(NamedTuple):
    """Different values of a column of text, and whether they name every feature, and no two alike."""

    name: str
    values: set[str]
    is_unique: bool


def _unversioned(name: str) -> str:
    found = VERSION.match(name)
    return found[1] if found else name


FORMS: dict[str, Callable[[str], str]] = {
    "as they are": str,
    "without versions": _unversioned,
    "in one letter case": str.upper,
}


def check_min_shared(min_shared: float) -> None:
    """Refuse a bound that is no share."""
    if not 0 <= min_shared <= 1:
        raise BadInput(f"`min_shared={min_shared}`: expected a share from 0 to 1")


def refuse_few_shared(
    paths: Sequence[str],
    names: Sequence[pd.Index],
    table: Callable[[int], pd.DataFrame],
    *,
    join: str | None,
    min_shared: float = MIN_SHARED,
    what: str = MAIN,
) -> None:
    """Refuse sources whose names are hardly those of the others.

    Parameters
    ----------
    paths : list of str
    names : list of pandas.Index
        Of each source, unique.
    table : callable
        Number of a source → its table of features: other columns of it are tried too.
    join : str or None
        With "inner" the names that all share are compared with the shortest list as well.
    min_shared : float
        Share of the smaller of two lists that must be in both. 0 lets everything pass.
    what : str
        What features are called.

    Raises
    ------
    BadInput
        Naming the share, how the names look, what would match, and the way on.
    """
    check_min_shared(min_shared)
    if min_shared == 0 or len(names) < 2:
        return
    known = common = names[0]
    n_smallest = len(known)
    for number, new in enumerate(names[1:], start=1):
        if new.equals(known) and new.equals(common):
            continue
        is_known = known.get_indexer(new) >= 0  # by a table that `known` keeps
        n_shared, n_smaller = int(is_known.sum()), min(len(new), len(known))
        if n_shared < min_shared * n_smaller:
            raise _refusal(paths, number, n_shared, n_smaller, table, what)
        if not is_known.all():
            known = known.append(new[~is_known])
        if join == "inner":
            is_common = common.get_indexer(new) >= 0
            if is_common.sum() < len(common):
                common = new[is_common]
            n_smallest = min(n_smallest, len(new))
            if len(common) < min_shared * n_smallest:
                raise _refusal(paths, number, len(common), n_smallest, table, what)


def _refusal(
    paths: Sequence[str],
    number: int,
    n_shared: int,
    n_smaller: int,
    table: Callable[[int], pd.DataFrame],
    what: str,
) -> BadInput:
    """The error about source `number`, compared with the first."""
    first, other = table(0), table(number)
    before = paths[0] if number == 1 else f"the {number} sources before it"
    share = f"shares {n_shared:,} {what} with {before}, {_percent(n_shared / n_smaller)} of {n_smaller:,}"
    if n_shared == 0:
        share = f"none of its {what} is in {before}, no {what.removesuffix('s')} is in all of them"
    look = f"{str(first.index[0])!r} in {paths[0]}, {str(other.index[0])!r} here"
    match = what_would_match(first, other)
    hint = "nothing else in their var matches" if match is None else _hint(match, paths, number, first, other, what)
    return BadInput(
        f"{paths[number]}: {share} ({look}); {hint}; `min_shared=0` with `join='outer'` joins them as they are"
    )


def what_would_match(first: pd.DataFrame, other: pd.DataFrame, enough: float = MIN_SHARED) -> Match | None:
    """The other columns, or other forms of the names, in which two tables share most.

    Parameters
    ----------
    first, other : pandas.DataFrame
        Features, indexed by name.
    enough : float
        The share of the smaller list from which on they are said to match.

    Returns
    -------
    Match or None
        Names as they are before names without versions before names in one letter case; among these, unique columns
        before others.
    """
    least = max(1, enough * min(len(first), len(other)))
    for form, change in FORMS.items():
        ours, theirs = (
            [column._replace(values={change(value) for value in column.values}) for column in _texts(table)]
            for table in (first, other)
        )
        matches = [
            Match((a.name, b.name), len(a.values & b.values), form, a.is_unique and b.is_unique)
            for a in ours
            for b in theirs
        ]
        enough_shared = [match for match in matches if match.n_shared >= least]
        if enough_shared:
            return max(enough_shared, key=lambda match: (match.is_unique, match.n_shared))
    return None


def _texts(table: pd.DataFrame) -> Iterator[Column]:
    """The index and the columns that are text, no more than half of it repeated."""
    yield Column(str(table.attrs.get("named_by", INDEX)), set(map(str, table.index)), True)
    given = 0
    for name in table:
        values = table[name].dropna().astype(object)
        if given < MOST_COLUMNS and all(isinstance(value, str) for value in values):
            unique = set(values) - {""}
            if len(unique) > len(table) / 2:
                given += 1
                yield Column(str(name), unique, len(unique) == len(table))


def _hint(match: Match, paths: Sequence[str], number: int, first: pd.DataFrame, other: pd.DataFrame, what: str) -> str:
    """What would match, and how to have it."""
    usual = tuple(str(table.attrs.get("named_by", INDEX)) for table in (first, other))
    places = [
        f"the names of {path}" if column == now else f"var[{column!r}] of {path}"
        for column, now, path in zip(match.columns, usual, (paths[0], paths[number]), strict=True)
    ]
    found = f"{places[0]} and {places[1]} share {match.n_shared:,} {what}"
    columns = [usual[0]] * len(paths)
    columns[0], columns[number] = match.columns
    ways = []
    if match.columns != usual and what != MAIN:
        ways.append("name them alike first")
    elif match.columns != usual:
        one = len(set(columns)) == 1
        option = f"`var_names={(columns[0] if one else columns)!r}` names them so"
        many = f"`var_names` chooses the columns, once for each of {len(paths)} sources"
        ways.append(option if one or len(paths) <= SHOWN else many)
        if not match.is_unique:
            ways.append("its names must be made unique first")
    if match.form == "without versions":
        found += " without the versions of identifiers (ENSG00000141510.12)"
        ways.append("take those off first (adata.var_names.str.split('.').str[0])")
    if match.form == "in one letter case":
        found += " in one letter case (symbols of two species, perhaps)"
        ways.append("write them alike first (adata.var_names.str.upper())")
    return f"{found}: {', and '.join(ways)}"


def lost_note(
    paths: Sequence[str], names: Sequence[pd.Index], joined: pd.Index, join: str | None, what: str = MAIN
) -> list[str]:
    """What a join lost: a note, or none where sources have the same names.

    Parameters
    ----------
    paths, names
        Of the sources.
    joined : pandas.Index
        The names after the join.
    join : str or None

    Returns
    -------
    list of str
        For "inner" the share of each source's names that are gone, the largest first; for "outer" how many names are
        missing somewhere, and the share of them that each source lacks.
    """
    gone = join == "inner"
    shares = [1 - len(joined) / len(index) if gone else 1 - len(index) / len(joined) for index in names]
    order = [number for number in np.argsort(-np.asarray(shares), kind="stable") if shares[number] > 0]
    if not order:
        return []
    if gone:
        text = f"join inner: {len(joined):,} {what} are in every source and kept; lost are"
        parts = [f"{_percent(shares[n])} of those of {paths[n]}" for n in order[:SHOWN]]
    else:
        everywhere = np.ones(len(joined), bool)
        for number in order:
            everywhere &= joined.isin(names[number])
        n_somewhere = int((~everywhere).sum())
        text = f"join outer: {n_somewhere:,} of {len(joined):,} {what} are missing in a source and zero there:"
        parts = [f"{_percent(shares[n])} in {paths[n]}" for n in order[:SHOWN]]
    if len(order) > SHOWN:
        parts.append(f"{_percent(shares[order[SHOWN]])} or less in {len(order) - SHOWN:,} more")
    return [f"{text} {', '.join(parts)}"]


def _percent(share: float) -> str:
    """A share in words of one or two digits; small ones are never said to be none."""
    return "less than 0.1 %" if 0 < share < 0.001 else f"{100 * share:.3g} %"
