"""Out-of-core loaders for single-cell counts: sources → ingest → Atlas store → streams of batches.

Names are imported on first use, so that `import data_loaders` costs nothing and pulls in no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_loaders.errors import BadInput
    from data_loaders.exporting.export import export
    from data_loaders.ingestion.ingest import ingest
    from data_loaders.reading.atlas import Atlas, open_atlas
    from data_loaders.reading.rows import SparseRows
    from data_loaders.simulation.cells import simulate
    from data_loaders.streaming.batch import CellBatch
    from data_loaders.streaming.datamodule import AtlasDataModule
    from data_loaders.streaming.stream import CellStream
    from data_loaders.writing.latents import LatentWriter
    from data_loaders.writing.writer import AtlasWriter

_HOME = {
    "Atlas": "reading.atlas",
    "AtlasDataModule": "streaming.datamodule",
    "AtlasWriter": "writing.writer",
    "BadInput": "errors",
    "CellBatch": "streaming.batch",
    "CellStream": "streaming.stream",
    "LatentWriter": "writing.latents",
    "SparseRows": "reading.rows",
    "export": "exporting.export",
    "ingest": "ingestion.ingest",
    "open_atlas": "reading.atlas",
    "simulate": "simulation.cells",
}
__all__ = [  # spelled out for type checkers
    "Atlas",
    "AtlasDataModule",
    "AtlasWriter",
    "BadInput",
    "CellBatch",
    "CellStream",
    "LatentWriter",
    "SparseRows",
    "export",
    "ingest",
    "open_atlas",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'data_loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"data_loaders.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
