"""Epochs of sparse batches, planned and resumable, over ranks and workers."""
