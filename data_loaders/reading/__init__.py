"""Stores of cells, opened and read by rows: `atlas.open_atlas`."""
