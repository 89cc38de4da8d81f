"""Sums over the cells of a store of any size, and what follows from them."""
