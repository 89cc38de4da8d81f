"""Likelihoods of counts: one file each, with its loss and its sampler."""
