"""Out-of-core loaders for single-cell counts: sources → ingest → Atlas store → streams of batches.

Names are imported on first use, so that `import data_loaders` costs nothing and pulls in no torch.
"""

import importlib

_HOME = {
    "Atlas": "atlas",
    "AtlasDataModule": "datamodule",
    "AtlasWriter": "writer",
    "BadInput": "errors",
    "CellBatch": "batch",
    "CellStream": "stream",
    "LatentWriter": "latents",
    "SparseRows": "rows",
    "export": "exporting",
    "ingest": "ingestion",
    "open_atlas": "atlas",
    "simulate": "simulation",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'data_loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"data_loaders.{_HOME[name]}"), name)


def __dir__():
    return __all__
