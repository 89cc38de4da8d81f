"""Loss and gradient of a likelihood in one pass over the decoder's outputs: a file a law, compiled for CPUs."""
