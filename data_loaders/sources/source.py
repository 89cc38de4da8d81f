"""`Source`: one opened file or store of counts, whatever its format."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass
class Source:
    """One opened source.

    Attributes
    ----------
    path : str
        As given, for messages.
    obs, var : pandas.DataFrame
        Index: cell names and gene names, each unique.
    matrix : a matrix of `data_loaders.sources.matrices`
    features : int (len(var),)
        The matrix columns that the rows of `var` describe.
    counts_from : str
        The element that the counts are taken from, such as "X" or "layers['counts']".
    file : h5py.File, SomaStore or None
        Open as long as the counts are read.
    notes : list of str
        What was changed or guessed, for the user to know.
    choices : str
        The options that name another matrix of it, for messages; empty where it has a single one.
    """

    path: str
    obs: pd.DataFrame
    var: pd.DataFrame
    matrix: object
    features: np.ndarray
    counts_from: str
    file: object = None
    notes: list = field(default_factory=list)
    choices: str = ""

    def close(self):
        """Close the file, if it is one."""
        if self.file is not None:
            self.file.close()
