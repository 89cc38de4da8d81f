"""Hyper-parameter search with Ray Tune; nothing here is needed to train, generate or evaluate."""
