"""Training: an ordinary function of a config, in one process, without Ray."""
