"""Where cells are compared: components of log-normalised counts, or of TF-IDF for accessibility."""
