"""The names that annotations use for arrays and paths; shapes and dtypes beyond these stand in docstrings."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

PathLike = str | os.PathLike[str]
Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
