"""Streams inside `torch.utils.data.DataLoader`: what makes torch take one, and which batches a worker shows.

Nothing here imports torch: who has not imported it has no DataLoader.
"""

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """The batches of an epoch that one worker of a DataLoader shows.

    A DataLoader asks its workers in turn, so workers that show every n-th batch give the order of the stream itself.

    Attributes
    ----------
    worker, n_workers : int
    origin : int
        Number of the batch that the first worker begins with.
    """

    worker: int = 0
    n_workers: int = 1
    origin: int = 0

    def has(self, batch: int) -> bool:
        """Whether a batch is among them."""
        return (batch - self.origin) % self.n_workers == self.worker


def this_worker() -> tuple[int, int] | None:
    """(number, how many there are) of the DataLoader worker that this process is; None in others."""
    torch_data = sys.modules.get("torch.utils.data")
    info: Any = None if torch_data is None else torch_data.get_worker_info()
    return None if info is None else (int(info.id), int(info.num_workers))


def register_with_torch(stream: type) -> None:
    """Let `isinstance(stream, torch.utils.data.IterableDataset)` be true, if torch.utils.data has been imported."""
    torch_data = sys.modules.get("torch.utils.data")
    dataset: Any = getattr(torch_data, "IterableDataset", None)
    if dataset is not None:
        dataset.register(stream)
