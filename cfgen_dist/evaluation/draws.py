"""Every purpose for which an evaluation draws random numbers: draws for one purpose do not depend on those for another.

`data_loaders.seeds.generator(seed, purpose, *numbers)` gives the numbers.
"""

import zlib

MATCH = 0  # which cells are in a set
CONTROL = 3  # the counts of the control
SCORERS = {"distances": 1, "structure": 2, "neighbours": 4}


def purpose_of(scorer: str) -> int:
    """The purpose of the draws of a scorer, by its name; one that is not listed here has draws of its own too."""
    return SCORERS.get(scorer, zlib.crc32(scorer.encode()))
