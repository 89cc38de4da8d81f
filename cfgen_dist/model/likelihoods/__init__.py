"""Likelihoods of counts: a file for each, with its loss and its sampler, and a line for each in the table below.

`cfgen_dist.config.LIKELIHOODS` names them once more, for those who check a config without loading torch.
"""

from cfgen_dist.model.likelihoods.bernoulli import Bernoulli
from cfgen_dist.model.likelihoods.likelihood import Likelihood
from cfgen_dist.model.likelihoods.negative_binomial import NegativeBinomial
from cfgen_dist.model.likelihoods.poisson import Poisson

__all__ = ["DEFAULT", "LIKELIHOODS", "Likelihood"]

LIKELIHOODS: dict[str, Likelihood] = {law.name: law for law in (NegativeBinomial(), Bernoulli(), Poisson())}
DEFAULT = NegativeBinomial.name  # of rna, unless the config says otherwise
