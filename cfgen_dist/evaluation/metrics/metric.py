"""What a metric is: a function that computes it (`Scorer`), and a row that says what its values mean (`Metric`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Values = dict[str, float]
Needs = Literal["points", "components", "counts", "profile", "types", "labels"]


class Measured(NamedTuple):
    """What a scorer found for one set of cells.

    Attributes
    ----------
    overall : dict of str to float
        Values of the set as a whole.
    types : list of dict of str to float
        Values of each type that the set has, in order of the codes; empty for a scorer that does not look at types.
    """

    overall: Values
    types: list[Values]


class Limit(NamedTuple):
    """A scorer looks at no more than so many random cells; the report says so where there were more.

    Attributes
    ----------
    cells : int
    of : tuple of {"types", "all", "test"}
        What is compared with `cells`: the cells of each type, all cells of a side, the test cells alone.
    sentence : str
        What was done, without the names of the types, which follow.
    """

    cells: int
    of: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Scorer:
    """A function that compares a set of cells with the test cells, and how it is called.

    A scorer is one piece of work for a worker, and has random draws of its own, so that a new one changes the values
    of no other. Several metrics may come from one scorer.

    Attributes
    ----------
    function : callable
        What it gives is a float, or a dict of them by name; `Measured` if it gives values of each type as well.
    needs : {"points", "components", "counts", "profile", "types", "labels"}
        points
            `function(real, scored, rng)` of two `Cloud`: called for each type and for all cells at once.
        components
            `function(real, scored, rng)` of two `CellSet`, of which it reads labels and components.
        counts
            The same, but it reads counts of cells, which is slow: for the main modality alone, and not for
            `Reference.score(structure=False)`.
        profile
            `function(real, scored)` of two `Profile`: sums over the counts of all cells.
        types
            `function(real, scored)` of two `CellSet`, of which it uses the sums by type alone: `by_type`, `cells`.
        labels
            The same, but it uses the numbers of cells alone, which are those of all modalities: for the main one, and
            not for `Reference.score(structure=False)`.
    paper : callable, optional
        The function under the protocol `paper`, where it is another one.
    limits : tuple of Limit
    """

    function: Callable[..., float | Values | Measured]
    needs: Needs
    paper: Callable[..., float | Values | Measured] | None = None
    limits: tuple[Limit, ...] = ()

    @property
    def name(self) -> str:
        """The name of the function: names the parts on disk, and the draws."""
        return self.function.__name__


@dataclass(frozen=True)
class Metric:
    """One row of the catalogue, and of the report.

    Attributes
    ----------
    key : str
        Name in `metrics.json`.
    scorer : Scorer
    title : str
    group : str
        One of `catalogue.GROUPS`.
    better : {"lower", "higher", "equal"}
        `equal`: best where it equals the value of the real test cells, of a scorer that needs profiles; of any other,
        where it equals the floor.
    near : float
        A value worse than the floor by no more than this is near it. Set by `benchmarks/sensitivity.py`: twice the most
        by which real cells were worse than the floor, over several splits of three data sets.
    meaning : str
        One line for the reader.
    relative : bool
        `near` is a share of the floor.
    value : str
        Name of the value among those of the scorer, if other than `key`. The value of a function that gives a single
        float is named after the function.
    mean_of_types : bool
        The value is the mean over types; else it is that of the whole set.
    in_types_table : bool
        Also a column of the report's table of types.
    space : {"log-normalised", "TF-IDF"}, optional
        Only for modalities that are compared in this space.
    """

    key: str
    scorer: Scorer
    title: str
    group: str
    better: Literal["lower", "higher", "equal"]
    near: float
    meaning: str
    relative: bool = False
    value: str = field(default="", kw_only=True)
    mean_of_types: bool = field(default=False, kw_only=True)
    in_types_table: bool = field(default=False, kw_only=True)
    space: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """Name of the value among those of the scorer."""
        return self.value or self.key
