"""Out-of-core loaders for single-cell counts: sources → ingest → Atlas store → streams of batches.

Names are imported on first use, so that `import data_loaders` costs nothing and pulls in no torch.
"""

import importlib

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
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'data_loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"data_loaders.{_HOME[name]}"), name)


def __dir__():
    return __all__
