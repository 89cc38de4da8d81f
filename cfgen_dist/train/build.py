"""The networks that a config describes: one place for training and for loading a bundle."""

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.velocity import Velocity


def build_autoencoder(config, n_genes, n_dispersions=1):
    """An Autoencoder of an AutoencoderConfig."""
    return Autoencoder(
        n_genes,
        latent_dim=config.latent_dim,
        hidden=config.hidden,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        input=config.input,
        latent_noise=config.latent_noise,
        n_dispersions=n_dispersions,
        theta=config.theta_start,
    )


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
