"""The networks that a config describes: one place for training and for loading a bundle."""

from collections.abc import Mapping, Sequence

from cfgen_dist.config import AutoencoderConfig, FlowConfig, ModalitiesConfig
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.likelihoods import DEFAULT, LIKELIHOODS
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.velocity import Velocity


def build_autoencoder(
    config: AutoencoderConfig,
    modalities: ModalitiesConfig,
    n_features: Mapping[str, int],
    n_dispersions: int = 1,
) -> Autoencoder | JointAutoencoder:
    """The Autoencoder that a config describes, or the JointAutoencoder of several modalities.

    Parameters
    ----------
    config : AutoencoderConfig
    modalities : ModalitiesConfig
        Read for their likelihoods; the rest matters where there are several.
    n_features : dict of str to int
        Modality → features, `rna` first.
    n_dispersions : int
        Categories of `config.theta_covariate`, 1 without it.
    """
    names = {name: modalities.likelihood.get(name, DEFAULT) for name in n_features}
    if len(n_features) == 1:
        return _branch(config, names["rna"], n_features["rna"], n_dispersions, config.hidden, config.latent_dim)
    branches = {}
    for name, n in n_features.items():
        hidden = config.hidden if name == "rna" else modalities.hidden
        branches[name] = _branch(config, names[name], n, n_dispersions, hidden, modalities.code_dim, config.latent_dim)
    return JointAutoencoder(branches, config.latent_dim)


def _branch(
    config: AutoencoderConfig,
    likelihood: str,
    n_features: int,
    n_dispersions: int,
    hidden: Sequence[int],
    latent_dim: int,
    decoded_dim: int | None = None,
) -> Autoencoder:
    return Autoencoder(
        n_features,
        latent_dim=latent_dim,
        hidden=hidden,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        input=LIKELIHOODS[likelihood].encoder_input or config.input,
        latent_noise=config.latent_noise,
        n_dispersions=n_dispersions,
        theta=config.theta_start,
        likelihood=likelihood,
        decoded_dim=decoded_dim,
    )


def build_velocity(
    config: FlowConfig, latent_dim: int, n_categories: Sequence[int], size_factor_range: Sequence[float] | None
) -> Velocity:
    """The Velocity that a config describes; `size_factor_range` is used when the flow is conditioned on size factors.

    Parameters
    ----------
    config : FlowConfig
    latent_dim : int
    n_categories : sequence of int
        Of each attribute.
    size_factor_range : (float, float), optional
        Smallest and largest log size factor of the training cells.
    """
    seen = size_factor_range if config.condition_on_size_factor else None
    return Velocity(
        latent_dim,
        n_categories,
        hidden=config.hidden,
        blocks=config.blocks,
        embedding=config.embedding,
        size_factor_range=None if seen is None else (seen[0], seen[1]),
    )
