"""The one typed tree of settings, for YAML files, presets, the command line and the saved config."""

from cfgen_dist.config.load import load_config, presets, save_config, to_dict
from cfgen_dist.config.settings import Setting, value_text
from cfgen_dist.config.tree import (
    LIKELIHOODS,
    SOLVERS,
    AutoencoderConfig,
    Config,
    FlowConfig,
    ModalitiesConfig,
    SamplingConfig,
    SizeFactorConfig,
    groups,
    settings,
)

__all__ = [
    "LIKELIHOODS",
    "SOLVERS",
    "AutoencoderConfig",
    "Config",
    "FlowConfig",
    "ModalitiesConfig",
    "SamplingConfig",
    "Setting",
    "SizeFactorConfig",
    "groups",
    "load_config",
    "presets",
    "save_config",
    "settings",
    "to_dict",
    "value_text",
]
