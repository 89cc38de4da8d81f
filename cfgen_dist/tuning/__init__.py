"""Hyper-parameter search with Ray Tune; nothing here is needed to train, generate or evaluate."""

from cfgen_dist.tuning.run import tune

__all__ = ["tune"]
