"""Atlases to files that other tools read: `export.export`."""
