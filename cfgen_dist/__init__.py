"""CFGen: a flow-matching generator of single-cell counts, trained out of core and run in shards.

Names are imported on first use, so that `import cfgen_dist` costs nothing and pulls in no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfgen_dist.bundle import CFGen
    from cfgen_dist.classification.run import classify
    from cfgen_dist.config import load_config
    from cfgen_dist.evaluation.run import evaluate
    from cfgen_dist.forecasting.run import plan
    from cfgen_dist.generation.augment import augment
    from cfgen_dist.generation.run import generate
    from cfgen_dist.guidance_sweep.run import guide
    from cfgen_dist.privacy.run import audit
    from cfgen_dist.training.cards import describe
    from cfgen_dist.training.run import train
    from cfgen_dist.translation.run import translate
    from cfgen_dist.tuning.run import tune
    from cfgen_dist.verification.run import verify

    __version__: str

# No module of this folder may bear one of these names: it would take the function's place once it is imported.
_HOMES = {
    "CFGen": "bundle",
    "audit": "privacy.run",
    "augment": "generation.augment",
    "classify": "classification.run",
    "describe": "training.cards",
    "evaluate": "evaluation.run",
    "generate": "generation.run",
    "guide": "guidance_sweep.run",
    "load_config": "config",
    "plan": "forecasting.run",
    "train": "training.run",
    "translate": "translation.run",
    "tune": "tuning.run",
    "verify": "verification.run",
}
__all__ = [
    "CFGen",
    "__version__",
    "audit",
    "augment",
    "classify",
    "describe",
    "evaluate",
    "generate",
    "guide",
    "load_config",
    "plan",
    "train",
    "translate",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("cfgen-dist")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
