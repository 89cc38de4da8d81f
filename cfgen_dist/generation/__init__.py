"""New cells from a trained model, in memory or sharded to disk: `run.generate` and `augment.augment`."""
