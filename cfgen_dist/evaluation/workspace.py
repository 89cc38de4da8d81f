"""`Workspace`: the folder of an evaluation under way, as its driver and all of its workers see it.

Every finished piece of work is a part: a file of arrays, if it has any, and then a JSON record that vouches for it,
each written beside, flushed to disk and renamed. A piece counts as done when its record is of these settings and its
file is as the record says.
"""

import hashlib
import io
import json
import threading
from pathlib import Path

import numpy as np

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.sources import open_cells
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfSpace
from data_loaders.files import write_whole
from data_loaders.statistics.pca import Components

# NumPy parses the header of a file with `ast`, which Python 3.11 cannot do in two threads at once: SystemError "AST
# constructor recursion depth mismatch", rarely (cpython#106905)
_one_header = threading.Lock()


class Workspace:
    """The plan of an evaluation, its sources of cells, and its parts.

    Parameters
    ----------
    folder : Path
        On a disk that all workers see.
    plan : dict
        JSON: `settings` (digest), `protocol`, `seed`, `n_types`, `n_genes`, `sets` {name: number of the source}; of
        another modality than rna `modality`, `space` ("log-normalised" or "TF-IDF") and `binary` as well.
    sources : list of Cells
        The real cells first.
    """

    def __init__(self, folder, plan, sources):
        self.folder, self.plan, self.sources = Path(folder), plan, sources
        self._space = None

    @classmethod
    def create(cls, folder, plan, sources, rows):
        """Write the plan, and rows {name of a set: int array (n,)}, for workers to open."""
        for name, chosen in rows.items():
            codes = sources[plan["sets"][name]].codes[chosen]
            for what, values in (("rows", chosen), ("codes", codes)):
                write_whole(folder / f"{name}.{what}.npy", lambda file, values=values: np.save(file, values))
        write_whole(folder / "plan.json", lambda file: file.write(json.dumps(plan).encode()))
        return cls(folder, plan, sources)

    @classmethod
    def open(cls, folder, origins, label):
        """In a worker: open the same sources again.

        Parameters
        ----------
        folder : Path
        origins : list of path-like or AnnData
        label : str
        """
        plan = json.loads((Path(folder) / "plan.json").read_text())
        how = {name: plan[name] for name in ("modality", "binary") if name in plan}
        real, *others = [open_cells(origin, label, **how) for origin in origins]
        others = [cells.in_order_of(real.genes).with_types_of(real) for cells in others]
        return cls(folder, plan, [real, *others])

    def n_cells(self, name):
        """Cells of a set."""
        return len(self.codes(name))

    def codes(self, name):
        """Types of the cells of a set (n,)."""
        return _mapped(self.folder / f"{name}.codes.npy")

    def reader(self, name, start=0):
        """`read(positions)` of a set: counts of its cells, position 0 being its cell number `start`."""
        rows = _mapped(self.folder / f"{name}.rows.npy")
        source = self.sources[self.plan["sets"][name]]
        return lambda positions: source.read(np.asarray(rows[start + positions]))

    def commit(self, part, arrays=None, **facts):
        """Keep a piece of work; doing it twice is harmless."""
        if arrays is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            facts["sha256"] = hashlib.sha256(buffer.getbuffer()).hexdigest()
            write_whole(self.folder / f"{part}.npz", lambda file: file.write(buffer.getbuffer()))
        record = json.dumps({"settings": self.plan["settings"]} | facts)
        write_whole(self.folder / f"{part}.json", lambda file: file.write(record.encode()))

    def facts(self, part):
        """The record of a part; None when it is not there, not of these settings, or its file is not as it says."""
        try:
            record = json.loads((self.folder / f"{part}.json").read_text())
            if record["settings"] != self.plan["settings"]:
                return None
            if "sha256" in record:
                with open(self.folder / f"{part}.npz", "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record

    def arrays(self, part):
        """Arrays of a part that is there, {name: array}."""
        with _one_header, np.load(self.folder / f"{part}.npz") as file:
            return {name: file[name] for name in file.files}

    def remove(self, parts):
        """Remove parts that were summed: records first."""
        for part in parts:
            (self.folder / f"{part}.json").unlink(missing_ok=True)
            (self.folder / f"{part}.npz").unlink(missing_ok=True)

    @property
    def space(self):
        """The fitted space; only where it was committed as `space`."""
        if self._space is None:
            arrays = self.arrays("space")
            self._space = TfIdfSpace(**arrays) if "idf" in arrays else Components(**arrays)
        return self._space

    def cell_set(self, name):
        """A `CellSet` that was committed; its components stay on disk."""
        arrays = self.arrays(f"set-{name}")
        pcs = _mapped(self.folder / f"{name}.pcs.npy")
        profile = unpack(Profile(self.plan["n_genes"]), arrays)
        return CellSet(np.asarray(self.codes(name)), pcs, arrays["sums"], arrays["cells"], profile, self.reader(name))


def _mapped(path):
    with _one_header:
        return np.load(path, mmap_mode="r")


def unpack(sums, arrays):
    """Empty sums with the state that `vars(sums)` had when it was committed."""
    for name in vars(sums):
        value = arrays[name]
        setattr(sums, name, value if value.ndim else value.item())
    return sums
