"""Every purpose that a seed serves, in one table: draws for one purpose are independent of those for another.

A command draws all its random numbers from one seed. Each purpose has a number here, and `generator(seed, purpose,
...)` gives the random numbers of that purpose alone, whatever else is drawn and in whatever order. A number is unique
within its table; two tables may share numbers, because no command draws from both with one seed or because the results
would change if the number did. The numbers are part of the results: never change one, and never use one again.
"""

from enum import IntEnum, unique

import numpy as np

from data_loaders.errors import BadInput


@unique
class Ingestion(IntEnum):
    """Of `data_loaders.ingest`."""

    SPLIT = 1  # which cells train, validate and test; `simulate` splits its cells with it too
    SHUFFLE = 2  # the order of the cells in the atlas


@unique
class Simulation(IntEnum):
    """Of `data_loaders.simulate`."""

    TRUTH = 10  # the parameters of the genes
    LABELS = 11  # the type and donor of every cell; then the number of the column
    CELLS = 12  # the counts of a block of cells; then the number of the block
    PEAK_TRUTH = 13  # the parameters of the peaks
    PEAKS = 14  # the open peaks of a block of cells; then the number of the block


@unique
class Streaming(IntEnum):
    """Of the order in which an epoch shows the cells; the epoch follows each."""

    BLOCKS = 1  # the order of the blocks of neighbouring cells
    CELLS = 2  # the order of the cells in a window; then rank and window
    DRAW = 3  # which cells a weighted epoch repeats


@unique
class Statistics(IntEnum):
    """Of sums over a store."""

    LANCZOS = 20  # the vectors that the search for principal components starts from


@unique
class Training(IntEnum):
    """Of the stages of a training; step and rank follow each."""

    AUTOENCODER = 0
    REFIT = 1  # the autoencoder on training and validation cells
    FLOW = 2
    TRANSFER = 3  # which cells of combinations left out are compared, and the noise they are made of


@unique
class Generation(IntEnum):
    """Of everything that draws cells from a model: these share the seed of one command."""

    PLAN = 0  # how many cells of each label combination
    SHARD = 1  # the cells of a shard; then the number of the shard
    BALANCE = 2  # which labels an augmentation adds
    TRANSLATION = 3  # the cells of a translated shard, then the number of the shard; alone: which cells are scored
    GUIDANCE = 4  # which real cells guided ones are compared with; then 1: the distances, 2: floor sets
    VERIFICATION = 5  # which shards are made again
    TRANSFER = 6  # which pair lends its change to each cell of a combination never seen; the shard's number follows


@unique
class Evaluation(IntEnum):
    """Of an evaluation; the number of the set of cells follows each. Newer metrics draw by a number of their name."""

    MATCH = 0  # cells of the wanted types; 0 and the source's number for scored cells, 1 and the set's for the floor,
    # 2 for test cells
    DISTANCES = 1
    STRUCTURE = 2
    CONTROL = 3  # cells of independent genes
    CLASSIFY = 4
    GROUPS = 5  # cells of the groups of other labels; a number of the labels' names follows
    CEILING = 6  # cells of a perfect model that knows as many cells


@unique
class Audit(IntEnum):
    """Of an audit of what generated cells betray."""

    COHORT = 0  # which training and held-out cells are asked about
    BOOTSTRAP = 1  # the cells, or donors, of a replicate; then the number of the set
    PLANTED = 2  # which training cells are planted, and their noise; then the number of the leak and of the draw
    HALVES = 3  # which held-out cells play members in the check


@unique
class Classification(IntEnum):
    """Of classifiers with and without generated cells."""

    COPIES = 0  # which real cells are copied; then the number of the augmented atlas


@unique
class Forecasting(IntEnum):
    """Of the simulation of many machines."""

    JITTER = 0  # how long each worker takes for each step; then the number of workers


@unique
class Tuning(IntEnum):
    """Of a search for hyper-parameters."""

    VALIDATION = 0  # which validation cells the trials are scored on; then 1: those left of types rare in training
    FLOOR = 1  # which training cells are scored in place of generated ones; then the number of the set


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one purpose.

    Parameters
    ----------
    seed : int
    *key : int
        The purpose, then what tells its draws apart, such as the number of a shard.

    Returns
    -------
    numpy.random.Generator
        A function of `seed` and `key`: it does not matter what was drawn before.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def derived_seed(seed: int, *key: int) -> int:
    """A seed for the random numbers of another library, 0 to 2**63 - 1, of one purpose as in `generator`."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def check_seed(seed: object) -> None:
    """Raise `BadInput` for a seed that random number generators do not take."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise BadInput(f"seed is {seed}, expected a whole number from 0 to 2**63-1")
