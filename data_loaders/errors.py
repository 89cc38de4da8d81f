"""The one exception that means "the user can mend this", and the words that help to mend it."""

import difflib


class BadInput(ValueError):
    """A file, column, key or argument that cannot be used.

    The message is one line that names what was looked at, what was found and what was expected. The command line prints
    it without a traceback and exits with code 2.
    """


def nearest(name, valid):
    """The words "did you mean 'x'?" for the valid name most like `name`, or the valid names if none is near."""
    valid = [str(v) for v in valid]
    match = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"valid: {', '.join(valid[:20])}{', ...' if len(valid) > 20 else ''}"
