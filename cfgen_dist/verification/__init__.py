"""Stores, runs and bundles compared with their checksums, and generated cells with their origin: `run.verify`."""
