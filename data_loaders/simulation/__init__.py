"""Atlases of any size with known truth: `cells.simulate`."""
