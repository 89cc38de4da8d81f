"""What every likelihood offers: the questions that an autoencoder, and whoever trains it, asks of a law of counts."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
from torch import Tensor

from cfgen_dist.model.sweeps.blocks import Counts
from data_loaders.errors import BadInput
from data_loaders.types import Floats, Ints

LARGEST_COUNT = 2**31 - 1  # that is drawn: every reader of counts holds int32
T = TypeVar("T")
Csr = tuple[Ints, Ints, Ints]  # data (nnz,), indices (nnz,) and indptr (B + 1,)


class Likelihood(ABC):
    """A law of the counts of B cells in F features, given the F or more outputs of a decoder.

    An object holds no parameters: log theta belongs to the autoencoder. The loss takes the decoder's outputs as they
    are. `nll` is the reference: operations of torch, on any device. Where a law has a `sweep` as well, training on CPUs
    makes loss and gradient in one pass over the outputs, normalisation included.

    Attributes
    ----------
    name : str
        In configs, cards and on the command line.
    encoder_input : str or None
        What the encoder must see (one of `cfgen_dist.model.autoencoder.INPUTS`); None for what the config says.
    has_dispersion : bool
        Whether there is a log theta to learn.
    scales_with_size_factor : bool
        Whether the counts scale with a size factor, so that generation draws one for the modality.
    has_sweep : bool
        Whether there is a `sweep`.
    """

    name: ClassVar[str]
    encoder_input: ClassVar[str | None] = None
    has_dispersion: ClassVar[bool] = False
    scales_with_size_factor: ClassVar[bool] = True
    has_sweep: ClassVar[bool] = False

    def n_outputs(self, n_features: int) -> int:
        """How many numbers the decoder must give for `n_features` features."""
        return n_features

    @abstractmethod
    def start_bias(self, mean: Tensor, n_cells: int) -> Tensor:
        """Outputs, the same for all cells, that make the constant model: training starts there.

        Parameters
        ----------
        mean : (F,) tensor
            Mean count of each feature over the training cells.
        n_cells : int
            How many training cells there are; one count more is added to each feature.

        Returns
        -------
        (n_outputs,) tensor
        """

    @abstractmethod
    def decode(self, outputs: Tensor) -> Tensor:
        """What a cell is like, in the form that people look at: log proportions or logits, (B, F).

        Parameters
        ----------
        outputs : (B, n_outputs) float32 tensor
        """

    def expected(self, outputs: Tensor) -> Tensor:
        """What is expected of counts, (B, F): proportions of the size factor, or probabilities of a one.

        Parameters
        ----------
        outputs : (B, n_outputs) float32 tensor
        """
        decoded = self.decode(outputs)
        return decoded.exp() if self.scales_with_size_factor else decoded.sigmoid()

    @abstractmethod
    def nll(self, outputs: Tensor, counts: Tensor, size_factor: Tensor, log_theta: Tensor | None) -> Tensor:
        """Negative log-likelihood of cells, summed over features.

        Parameters
        ----------
        outputs : (B, n_outputs) float32 tensor
        counts : (B, F) float tensor
            Dense; most are zero.
        size_factor : (B,) tensor
        log_theta : (F,) or (B, F) tensor
            Log of the inverse dispersions; None for a likelihood without them.

        Returns
        -------
        (B,) tensor, nats per cell
        """

    def sweep(
        self,
        logits: Tensor,
        further: Tensor,
        bias: Tensor,
        log_theta: Tensor | None,
        lines: Ints,
        size_factor: Floats,
        counts: Counts,
        scale: float,
    ) -> tuple[float, Tensor, Tensor | None]:
        """Loss and gradient in one pass, on a CPU.

        Parameters
        ----------
        logits : (B, F) float32 or bfloat16 tensor
            The first F outputs, without the bias: as bfloat16 they lose digits that a bias must keep. Overwritten by
            scale times the gradient.
        further : (B, n_outputs - F) float32 tensor
            The outputs beyond them, without the bias; overwritten too.
        bias : (n_outputs,) float32 tensor
        log_theta : (C, F) float32 tensor, or None
        lines : (B,) int64 array
            The line of `log_theta` of each cell; -1 leaves a cell out.
        size_factor : (B,) float32 array
        counts : Counts
            Of the B cells.
        scale : float
            Of the gradients.

        Returns
        -------
        loss : float
            Nats, summed over the cells that are not left out.
        d_bias : (n_outputs,) tensor
        d_log_theta : (C, F) tensor, or None
        """
        raise NotImplementedError(f"the likelihood {self.name} has no sweep")

    @abstractmethod
    def draw(
        self,
        outputs: Tensor,
        size_factor: Floats | None,
        log_theta: Tensor | None,
        seeds: Ints,
        rng: np.random.Generator,
    ) -> Csr:
        """Draw counts straight into CSR; a row depends on its seed alone, but for the few entries that `rng` draws.

        Parameters
        ----------
        outputs : (B, n_outputs) float32 tensor
        size_factor : (B,) array
            Total counts wanted; None where counts do not scale with it.
        log_theta : (F,) or (B, F) tensor, or None
        seeds : (B,) uint64 array
            One seed a row.
        rng : numpy.random.Generator

        Returns
        -------
        data : (nnz,) uint32 array
        indices : (nnz,) int32 array
        indptr : (B + 1,) int64 array
        """


def needed(value: T | None, name: str) -> T:
    """The value; ValueError where a likelihood that cannot do without it gets None."""
    if value is None:
        raise ValueError(f"{name} is None: this likelihood needs it")
    return value


def drawable(values: Floats, most: float = float(np.finfo(np.float32).max)) -> Floats:
    """The values, of which counts can be drawn; BadInput where some are no numbers, or above `most`."""
    largest = values.max(initial=0)  # NaN if there is one
    if not largest <= most:
        raise BadInput(
            f"the decoder asks for counts with a mean of {largest:g}, expected {LARGEST_COUNT:,} at most: "
            "lower the guidance, or take more steps"
        )
    return values
