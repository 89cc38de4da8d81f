"""What the features of a file are: of which type, by which names, and shared with those of another file or not."""
