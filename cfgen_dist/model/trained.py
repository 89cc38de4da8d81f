"""The trained model as an object: what makes cells, without knowing of files."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from cfgen_dist.config import Config
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.calibration import Calibration
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.size_factor import SizeFactorLaw
from cfgen_dist.model.transfer import FEW, Lesson
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.workers.threads import check_device
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Floats, Ints

if TYPE_CHECKING:
    from data_loaders import CellBatch


@dataclass
class TrainedModel:
    """Trained networks, and what else it takes to make cells with them.

    `cfgen_dist.bundle.CFGen` is this with files: it loads, saves and generates.

    Attributes
    ----------
    config : Config
    autoencoder : Autoencoder, or JointAutoencoder of several modalities
        In eval mode.
    velocity : Velocity
        In eval mode.
    size_factor : SizeFactorLaw
    genes : list of str
    labels : dict of str to list of str
        The attributes that the model is conditioned on, in order, with their categories.
    combinations : (M, K) int64 array
        The label combinations of the training cells, as codes; -1 where cells lack a label.
    counts : (M,) int64 array
        How many training cells had each.
    provenance : dict
        Where it came from: atlas, held-out likelihood, versions.
    digest : str
        SHA-256 over the weights and the card.
    features : dict of str to list of str
        Names of the features of each modality beside rna.
    mean_log_size : (M,) float64 array or None
        Mean log size factor of the training cells of each combination; None in bundles of before.
    transfer : dict of str to Lesson
        NAME or NAME=CATEGORY of an attribute → what leaving out seen combinations taught of changing it.
    calibration : Calibration, optional
        What is added to the decoder's outputs, by the labels of a cell; None: nothing.
    """

    config: Config
    autoencoder: Autoencoder | JointAutoencoder
    velocity: Velocity
    size_factor: SizeFactorLaw
    genes: list[str]
    labels: dict[str, list[str]]
    combinations: Ints
    counts: Ints
    provenance: dict[str, Any]
    digest: str = ""
    features: dict[str, list[str]] = field(default_factory=dict)
    mean_log_size: Floats | None = None
    transfer: dict[str, Lesson] = field(default_factory=dict)
    calibration: Calibration | None = None

    def observed(self) -> tuple[Ints, Ints]:
        """The combinations of cells that have all labels, and their counts: copies that may be changed."""
        whole = (self.combinations >= 0).all(axis=1)
        return self.combinations[whole], self.counts[whole]

    def numbers_of_combinations(self) -> tuple[int, int, int]:
        """Label combinations that are possible, that training cells had, that fewer than `FEW` of them had."""
        counts = self.observed()[1]
        return math.prod(map(len, self.labels.values())), len(counts), int((counts < FEW).sum())

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.velocity.latent_mean.device

    def to(self, device: str) -> Self:
        """The same model, its networks moved to a device; BadInput for "cuda" where there is no GPU."""
        check_device(device)
        self.autoencoder.to(device)
        self.velocity.to(device)
        if self.calibration is not None:
            self.calibration = self.calibration.to(device)
        return self

    def shifts(self, codes: Ints) -> dict[str, torch.Tensor]:
        """What the calibration adds to the decoders' outputs of cells with labels `codes` (B, K), -1 where without.

        Returns
        -------
        dict of str to (B, features) tensor
            Modality → offsets; empty without a calibration.
        """
        if self.calibration is None:
            return {}
        columns = torch.from_numpy(np.ascontiguousarray(np.asarray(codes, np.int64).T))
        return self.calibration.shifts(dict(zip(self.labels, columns, strict=True)))

    def nll(self, batch: "CellBatch") -> torch.Tensor:
        """Negative log-likelihood of cells, calibrated: the mean over the batch, in nats per cell.

        Parameters
        ----------
        batch : CellBatch
            With the labels of the model, -1 where a cell has none; of tensors or arrays.

        Returns
        -------
        scalar tensor
        """
        batch = batch.to(self.device)
        labels: Any = batch.labels
        shifts = self.calibration.shifts(labels) if self.calibration else {}
        covariate = self.config.autoencoder.theta_covariate
        category = labels[covariate] if covariate else None
        dense = self.autoencoder.dense(batch.counts, self.device)
        loss: torch.Tensor = self.autoencoder(dense, batch.size_factor, category, shifts)
        return loss

    def codes_of(self, name: str, values: Any) -> Ints:
        """Integer codes of one value or an array of values of the attribute `name`; BadInput if unknown."""
        categories = self.labels[name]
        asked = np.atleast_1d(np.asarray(values, dtype=object))
        codes: Ints = np.asarray(pd.Index(categories).get_indexer(asked), dtype=np.int64)
        if (codes < 0).any():
            unknown = asked[codes < 0][0]
            raise BadInput(f"{name}: unknown category {unknown!r}, {nearest(unknown, categories)}")
        return codes

    def codes(self, table: pd.DataFrame) -> Ints:
        """Integer codes (N, K) of a DataFrame with a column per attribute."""
        columns = [self.codes_of(name, table[name].to_numpy()) for name in self.labels]
        return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0), np.int64)
