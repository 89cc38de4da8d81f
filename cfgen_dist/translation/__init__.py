"""Real cells carried to another label: `run.translate`."""
