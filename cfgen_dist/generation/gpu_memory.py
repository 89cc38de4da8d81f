"""What an actor that makes cells holds on a GPU, from its plan: the model, and one batch at its widest."""

from cfgen_dist.model.trained import TrainedModel

CONTEXT = 600 << 20  # bytes that CUDA and its libraries take of a card for each process
LIVE = 4  # float32 arrays of a batch that exist at once, in the layer that is widest


def gpu_bytes(model: TrainedModel, batch_size: int) -> int:
    """Bytes on a card of one actor, an estimate that errs to the large side.

    Counts are drawn on the CPU, so the widest arrays are the means of all features of a batch, (batch_size, features),
    float32, and the solver's of (batch_size, hidden) for each guided velocity, which are smaller.

    Parameters
    ----------
    model : TrainedModel
    batch_size : int
        Cells that are integrated together.
    """
    tensors = [value for part in (model.autoencoder, model.velocity) for value in part.state_dict().values()]
    weights = sum(value.numel() * value.element_size() for value in tensors)
    features = len(model.genes) + sum(len(names) for names in model.features.values())
    hidden = model.config.flow.hidden * (model.config.flow.blocks + 1) * (len(model.labels) + 1)
    return CONTEXT + 2 * weights + LIVE * 4 * batch_size * max(features, hidden)
