"""The one exception that means "the user can mend this"."""


class BadInput(ValueError):
    """A file, column, key or argument that cannot be used.

    The message is one line that names what was looked at, what was found and what was expected. The command line prints
    it without a traceback and exits with code 2.
    """
