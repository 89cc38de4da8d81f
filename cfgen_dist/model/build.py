"""The networks that a config describes: one place for training and for loading a bundle."""

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.velocity import Velocity


def build_autoencoder(config, n_features, labels):
    """The Autoencoder of a Config, or the JointAutoencoder of several modalities.

    Parameters
    ----------
    config : Config
    n_features : dict of str to int
        Modality → features, `rna` first.
    labels : dict of str to list of str
        Attributes and their categories: theta may have a value for each of one's.
    """
    if len(n_features) == 1:
        return _branch(config, "rna", n_features["rna"], labels)
    joint = {"latent_dim": config.modalities.code_dim, "decoded_dim": config.autoencoder.latent_dim}
    branches = {
        name: _branch(config, name, n, labels, **joint, hidden=_hidden(config, name)) for name, n in n_features.items()
    }
    return JointAutoencoder(branches, config.autoencoder.latent_dim)


def _hidden(config, modality):
    return config.autoencoder.hidden if modality == "rna" else config.modalities.hidden


def _branch(config, modality, n_features, labels, **changed):
    stage = config.autoencoder
    likelihood = config.modalities.likelihood.get(modality, "nb")
    settings = {
        "latent_dim": stage.latent_dim,
        "hidden": stage.hidden,
        "dropout": stage.dropout,
        "input_dropout": stage.input_dropout,
        "input": "binary" if likelihood == "bernoulli" else stage.input,
        "latent_noise": stage.latent_noise,
        "n_dispersions": len(labels[stage.theta_covariate]) if stage.theta_covariate else 1,
        "theta": stage.theta_start,
        "likelihood": likelihood,
    }
    return Autoencoder(n_features, **settings | changed)


def build_velocity(config, n_categories, size_factor_range):
    """A Velocity of a Config; `size_factor_range` is used when the flow is conditioned on the size factor."""
    return Velocity(
        config.autoencoder.latent_dim,
        n_categories,
        hidden=config.flow.hidden,
        blocks=config.flow.blocks,
        embedding=config.flow.embedding,
        size_factor_range=tuple(size_factor_range) if config.flow.condition_on_size_factor else None,
    )
