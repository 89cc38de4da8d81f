"""What guidance does to the cells of a model, over a grid of weights: `run.guide`."""
