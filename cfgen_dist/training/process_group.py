"""The process group that Ray Train sets up, in workers that keep a SIGTERM for the end of the step.

Python calls handlers of signals in the main thread, which in a worker of Ray is not the one that trains; what is
executed while the group is set up runs there.
"""

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from cfgen_dist.training.notices import keep_sigterm


@dataclass
class Group(TorchConfig):
    """Ray Train's `TorchConfig`, and `keep_sigterm` in every worker."""

    @property
    def backend_cls(self) -> Any:
        """The class that sets the group up."""
        return _backend(super().backend_cls)


def _backend(base: Any) -> Any:
    class Backend(base):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(keep_sigterm)

    return Backend
