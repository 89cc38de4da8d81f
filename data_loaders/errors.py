"""The one exception that means "the user can mend this", and the words that help to mend it."""

import difflib
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

DAMAGED = "the file is damaged or cut short"

# A quoted value of a file of others can be of any length: what is longer than this is cut where it is shown.
LONGEST_VALUE = 200
_LONG_VALUE = re.compile(
    rf"(?<!\w)(?P<quote>['\"])(?P<value>(?:(?!(?P=quote)).){{{LONGEST_VALUE + 1},}})(?P=quote)(?!\w)"
)


def brief(message: str) -> str:
    """The message with every quoted value of more than `LONGEST_VALUE` characters cut, and its length said."""

    def cut(match: re.Match[str]) -> str:
        quote, value = match["quote"], match["value"]
        return f"{quote}{value[:60]}...{quote} ({len(value):,} characters)"

    return _LONG_VALUE.sub(cut, message)


class BadInput(ValueError):
    """A file, column, key or argument that cannot be used.

    The message is one line that names what was looked at, what was found, what was expected, and the way on. It speaks
    Python: an argument stands in backticks by its name, alone or with a value, and a function with its arguments. The
    command line puts its own words there, prints the message without a traceback and exits with code 2:

    ================================  ========================================
    in the message                    on the command line
    ================================  ========================================
    `` `obs_files` ``                 ``--obs``
    `` `drop_empty=True` ``           ``--drop-empty``
    `` `join='outer'` ``              ``--join outer``
    `` `layer=NAME` ``                ``--layer NAME``
    `` `ingest()` ``                  `` `cfgen-dist ingest` ``
    `` `ingest(drop_empty=True)` ``   `` `cfgen-dist ingest --drop-empty` ``
    ================================  ========================================

    A quoted value of more than `LONGEST_VALUE` characters is cut.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(brief(str(message)))


class WorkFailed(RuntimeError):
    """Work that failed by no mistake of the user's, after what could be tried was tried.

    The message is one line, written as those of `BadInput`. The command line prints it without a traceback and exits
    with code 1.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(brief(str(message)))


class Interrupted(KeyboardInterrupt):
    """Work that was stopped by a signal; the message is one line, as those of `BadInput`.

    Attributes
    ----------
    code : int
        The exit code of a command: 128 and the number of the signal.
    """

    def __init__(self, message: str = "", code: int = 130) -> None:
        super().__init__(brief(message))
        self.code = code


def nearest(name: object, valid: Iterable[object]) -> str:
    """The words "did you mean 'x'?" for the valid name most like `name`, or the valid names if none is near."""
    names = [str(value)[:LONGEST_VALUE] for value in valid]
    match = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"valid: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"


@contextmanager
def readable(name: object) -> Iterator[None]:
    """Turn what readers raise on a damaged or forbidden file into `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except PermissionError as error:
        raise BadInput(f"{name} cannot be read: permission denied") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} cannot be read as text in UTF-8 ({error.reason}); save it in that encoding") from error
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        unknown = unknown_kind(error)
        if unknown is not None:
            raise BadInput(f"{name} cannot be read: {unknown}") from error
        raise BadInput(f"{name} cannot be read, {DAMAGED} ({reason})") from error


def unknown_kind(error: BaseException) -> str | None:
    """What an error of zarr says about a data type or codec that it does not know, and the way on; None for others."""
    text = " ".join(str(error).split())
    if not text.startswith("No Zarr data type found") and type(error).__name__ != "UnknownCodecError":
        return None
    return f"the installed zarr does not know its data type or codec; a newer zarr may ({text[:120]})"
