"""Options that several functions take, spelled out once: a dataclass for the code, a TypedDict for signatures.

A public function takes `**options: Unpack[SomeOptions]` and builds the dataclasses in its first lines. `takes` shows
the options one by one in `help()` and in the completion of notebooks, and refuses those that do not exist.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar

from data_loaders.errors import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="DataclassInstance")


@dataclass(frozen=True)
class Workers:
    """Who does the work; results do not depend on it.

    Attributes
    ----------
    ray : {None, "auto", "local"} or str
        Where the workers are: None is threads of this process, else see `cfgen_dist.workers.cluster.connect`.
    workers : int, optional
        How many; by default one for each core of this machine or of the Ray cluster, or for each GPU with
        `device="cuda"`.
    gpus_per_worker : float or "auto", optional
        The share of a GPU that a worker under Ray takes with `device="cuda"`, 1 by default; "auto": by the memory that
        it needs, where Ray knows which cards there are.
    """

    ray: str | None = None
    workers: int | None = None
    gpus_per_worker: float | str | None = None


class WorkersOptions(TypedDict, total=False):
    """The fields of `Workers` as keywords."""

    ray: str | None
    workers: int | None
    gpus_per_worker: float | str | None


def build(kind: type[D], options: Mapping[str, Any]) -> D:
    """The dataclass `kind` of those options that are its fields; the others are for somebody else."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in options.items() if name in names})


def takes(options: Any, *kinds: type["DataclassInstance"]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose `**options` are those of a TypedDict.

    Parameters
    ----------
    options : TypedDict
        The keywords that the function takes beside its named ones.
    *kinds : dataclass
        Where their defaults stand.

    Returns
    -------
    callable
        The decorator. The function it makes raises `TypeError`, with the nearest valid name, for an unknown keyword.
    """
    defaults = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    spelled = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
        for name, hint in options.__annotations__.items()
    ]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        named = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        signature = signature.replace(parameters=[*named, *spelled])

        @functools.wraps(function)
        def wrapper(*args: P.args, **keywords: P.kwargs) -> R:
            unknown = next((name for name in keywords if name not in signature.parameters), None)
            if unknown is not None:
                near = nearest(unknown, signature.parameters)
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument {unknown!r}, {near}")
            return function(*args, **keywords)

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper

    return decorate
