"""The card of whatever is at a path: an atlas, a run or a model bundle."""

from pathlib import Path
from typing import Any

from data_loaders.card import read_card
from data_loaders.errors import BadInput
from data_loaders.storage import is_remote, place, shown


def describe(path: str | Path) -> dict[str, Any]:
    """The card of an atlas, a run or a model bundle.

    Parameters
    ----------
    path : path-like
        The store or the folder, or its address.

    Returns
    -------
    dict
        Of an atlas: cells, genes, labels with their categories, splits, sources and more. Of a model, whose card has
        the key `model`: genes, labels, config, provenance and more.

    Raises
    ------
    BadInput
        There is no atlas, bundle or finished run, or its card cannot be read.
    """
    if is_remote(path):
        at = place(path)
        for remote in (at, at / "bundle"):
            if (remote / "card.json").is_file():
                from cfgen_dist.bundle import read_card as read_bundle_card

                with remote.local() as local:
                    return read_bundle_card(local)
        from data_loaders import open_atlas

        card = open_atlas(path).card
        if card is None:
            raise BadInput(f"{shown(path)}: no card in that store; expected an atlas")
        return card
    path = Path(path)
    if (path / "zarr.json").is_file():
        return read_card(path)
    for bundle in (path, path / "bundle"):
        if (bundle / "card.json").is_file():
            from cfgen_dist.bundle import read_card as read_bundle_card  # loads torch, which an atlas does not need

            return read_bundle_card(bundle)
    if (path / "config.yaml").is_file() and (path / "atlas.json").is_file():
        done = [name for name in ("autoencoder", "flow") if (path / name / "weights.safetensors").exists()]
        finished = f"finished: {', '.join(done)}" if done else "no stage is finished"
        raise BadInput(f"{path}: a run without a model yet ({finished}); `train(resume=True)` goes on")
    found = "nothing" if not path.exists() else "no zarr.json, card.json or bundle/card.json"
    raise BadInput(f"{path}: {found} there; expected an atlas, a run or a model bundle")
