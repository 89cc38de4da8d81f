"""The trained model as files: safetensors weights and one JSON card; `CFGen` loads, saves and generates."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from cfgen_dist.config import load_config, to_dict
from cfgen_dist.model.build import build_autoencoder, build_velocity
from cfgen_dist.model.bundle_form import FORMATS, BundleCard, check_arrays, check_config, check_state, fill
from cfgen_dist.model.calibration import Calibration, empty_state
from cfgen_dist.model.size_factor import SizeFactorLaw
from cfgen_dist.model.trained import TrainedModel
from cfgen_dist.model.transfer import Lesson
from data_loaders.errors import BadInput
from data_loaders.files import begin_output, finish_output
from data_loaders.locks import one_at_a_time
from data_loaders.records import check_form, one_line, plain_json, read_regular, show
from data_loaders.storage import Place, is_remote, place
from data_loaders.storage.address import on_disk
from data_loaders.types import Array, PathLike

T = TypeVar("T")
if TYPE_CHECKING:
    import anndata as ad

CARD = "card.json"
AUTOENCODER, FLOW = "autoencoder.safetensors", "flow.safetensors"
SIZE_FACTOR, LABELS = "size_factor.safetensors", "labels.safetensors"
CALIBRATION = "calibration.safetensors"
FILES = (AUTOENCODER, FLOW, SIZE_FACTOR, LABELS)  # of every bundle


class CFGen(TrainedModel):
    """A trained model that loads, saves and generates; see `TrainedModel` for its attributes."""

    def save(self, path: PathLike) -> None:
        """Write the bundle to a directory, or an address in a bucket, where it appears whole or not at all.

        In a bucket the card is put last, where none is: without it nothing opens the rest.

        Raises
        ------
        BadInput
            Something is there; of an address, no bundle that was not finished.
        """
        if is_remote(path):
            with one_at_a_time(path), TemporaryDirectory(prefix="cfgen-bundle-") as folder:
                _check_free(place(path))
                self._build(Path(folder))
                digest = _sha256(Path(folder) / CARD)
                _put(Path(folder), place(path))
            self.digest = digest
            return
        built = begin_output(on_disk(path))
        try:
            self._build(built)
            finish_output(built, on_disk(path))
        except BaseException:
            shutil.rmtree(built, ignore_errors=True)
            raise
        self.digest = _sha256(on_disk(path) / CARD)

    def _build(self, built: Path) -> None:
        """Write the files of the bundle to a folder."""
        # safetensors refuses tensors that share memory or are not contiguous
        save_file({k: v.contiguous() for k, v in self.autoencoder.state_dict().items()}, built / AUTOENCODER)
        save_file({k: v.contiguous() for k, v in self.velocity.state_dict().items()}, built / FLOW)
        save_arrays(self.size_factor.arrays(), built / SIZE_FACTOR)
        table: dict[str, Array] = {"combinations": self.combinations, "counts": self.counts}
        table |= {} if self.mean_log_size is None else {"mean_log_size": self.mean_log_size}
        save_arrays(table, built / LABELS)
        if self.calibration is not None:
            save_file(self.calibration.to("cpu").state(), built / CALIBRATION)
        card: dict[str, Any] = {
            "format": FORMATS[0] if self.calibration is None else FORMATS[1],
            "model": "CFGen",
            "labels": self.labels,
            "size_factor": {"kind": self.size_factor.kind, "covariate": self.size_factor.covariate},
            "size_factor_range": self.velocity.size_factor_range,
            "config": to_dict(self.config),
            "provenance": self.provenance,
            "combinations": dict(zip(("possible", "seen", "rare"), self.numbers_of_combinations(), strict=True)),
            "genes": list(self.genes),
            **({"features": self.features} if self.features else {}),
            **({"transfer": {key: asdict(lesson) for key, lesson in self.transfer.items()}} if self.transfer else {}),
            **({"calibration": self.calibration.spread()} if self.calibration is not None else {}),
        }
        card["sha256"] = {name: _sha256(built / name) for name in files_of(card)}
        card["sha256"]["card"] = _digest(card)
        (built / CARD).write_text(json.dumps(card, indent=1))

    @classmethod
    def load(cls, path: PathLike) -> "CFGen":
        """Read a bundle; nothing in it is executed.

        Parameters
        ----------
        path : path-like
            The bundle's directory, or a run that holds one; on a disk, or in a bucket, from where each file is copied
            to a temporary one and removed.

        Raises
        ------
        BadInput
            Not a bundle, a file missing, truncated or changed, or written by a newer version.
        """
        folder = place(path)
        if (folder / "bundle" / CARD).is_file():
            folder = folder / "bundle"
        card, digest, here = *_read_card(folder), f"bundle {folder.shown}"
        config = load_config(card["config"])
        check_config(config, card, here)
        weights = [_load(folder, name, card, load_file) for name in (AUTOENCODER, FLOW)]
        arrays, table = (_load(folder, name, card, load_arrays) for name in (SIZE_FACTOR, LABELS))
        offsets = _load(folder, CALIBRATION, card, load_file) if is_calibrated(card) else None
        check_arrays(arrays, table, card, config, here)
        labels = card["labels"]
        features = card.get("features", {})
        n_features = {"rna": len(card["genes"])} | {name: len(names) for name, names in features.items()}
        covariate = config.autoencoder.theta_covariate
        n_dispersions = len(labels[covariate]) if covariate else 1
        n_categories = [len(categories) for categories in labels.values()]
        autoencoder = fill(
            lambda: build_autoencoder(config.autoencoder, config.modalities, n_features, n_dispersions),
            weights[0],
            f"{here}: {AUTOENCODER}",
        )
        velocity = fill(
            lambda: build_velocity(config.flow, config.autoencoder.latent_dim, n_categories, card["size_factor_range"]),
            weights[1],
            f"{here}: {FLOW}",
        )
        calibration = None
        if offsets is not None:
            sizes = {name: len(categories) for name, categories in labels.items()}
            check_state(empty_state(sizes, n_features), offsets, f"{here}: {CALIBRATION}")
            calibration = Calibration.filled(offsets, sizes, n_features)
        others = {name: arrays.pop(f"values.{name}") for name in features if f"values.{name}" in arrays}
        law = SizeFactorLaw(card["size_factor"]["kind"], card["size_factor"]["covariate"], **arrays, others=others)
        return cls(
            config=config,
            autoencoder=autoencoder.eval(),
            velocity=velocity.eval(),
            size_factor=law,
            genes=card["genes"],
            labels=labels,
            combinations=table["combinations"],
            counts=table["counts"],
            provenance=card["provenance"],
            digest=digest,
            features=features,
            mean_log_size=table.get("mean_log_size"),
            transfer={
                key: Lesson(lesson["weight"], lesson["combinations"], lesson["way"])
                for key, lesson in card.get("transfer", {}).items()
            },
            calibration=calibration,
        )

    def generate(
        self,
        n: int | None = None,
        *,
        labels: Mapping[str, str] | pd.DataFrame | None = None,
        guidance: Mapping[str, float] | None = None,
        solver: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        unseen: str | None = None,
    ) -> "ad.AnnData":
        """Generate cells in memory; `cfgen_dist.generation.run.generate` writes any number to disk.

        Parameters
        ----------
        n : int, optional
            Number of cells; with a table of `labels`, its rows give the number.
        labels : dict of str to str, or DataFrame, optional
            One value for some attributes, the others drawn as observed; or a table with a column per attribute and,
            optionally, a column `n`. By default the observed combinations in their observed proportions.
        guidance : dict of str to float, optional
            Weight of each attribute; one that is left out gets weight 0. By default that of the bundle's config, 1 each
            unless set otherwise: faithful; more than 1 makes cells more typical of their label, at the cost of
            diversity.
        solver : str, optional
        steps : int, optional
            As in `cfgen_dist.model.solvers.integrate`; the bundle's defaults otherwise.
        seed : int
        device : {"cpu", "cuda"}
            Where the networks run; counts are drawn on the CPU. A GPU makes other cells of the same law.
        unseen : {"transfer", "compose", "refuse"}, optional
            How label combinations without a training cell are made, as in `cfgen_dist.generation.options.Sampling`.

        Returns
        -------
        anndata.AnnData
            Integer CSR counts, labels and size_factor in obs, provenance in uns. Further modalities are in obsm, the
            names of their features in `uns["features"]`.
        """
        from cfgen_dist.generation.memory import sample_in_memory
        from cfgen_dist.generation.options import Sampling
        from cfgen_dist.generation.plan import make_plan

        sampling = Sampling(guidance=guidance, solver=solver, steps=steps, seed=seed, device=device, unseen=unseen)
        return sample_in_memory(self, make_plan(self, n, labels=labels, sampling=sampling))


def read_card(path: PathLike) -> dict[str, Any]:
    """The card of a bundle as a dict; BadInput when `path` is not a bundle."""
    return _read_card(place(path))[0]


def _read_card(folder: Place) -> tuple[dict[str, Any], str]:
    """The card of a bundle, and the SHA-256 of its file."""
    path = folder.shown
    try:
        text = read_regular(str(folder / CARD), f"bundle {path}: {CARD}")
    except FileNotFoundError:
        unfinished = (folder / "config.yaml").is_file()
        why = "a run that has not finished: `train(resume=True)` goes on" if unfinished else "no card.json there"
        raise BadInput(f"{path}: {why}; expected a model bundle") from None
    card = plain_json(text, f"bundle {path}: {CARD}")
    formats = [str(each) for each in FORMATS]
    known = isinstance(card, dict) and card.get("model") == "CFGen" and str(card.get("format")) in formats
    if not known:
        found = "no keys"
        if isinstance(card, dict):
            found = f"format {show(card.get('format'))} of {show(card.get('model'))}"
        raise BadInput(f"{path}/card.json: {found}, expected format {' or '.join(formats)} of 'CFGen'")
    sums = card.get("sha256")
    if not isinstance(sums, dict) or sums.get("card") != _digest(card):
        raise BadInput(f"{path}/card.json was changed after it was written: its SHA-256 is not the one it holds")
    check_form(card, BundleCard, f"{path}/{CARD}")
    return dict(card), hashlib.sha256(text).hexdigest()


def _check_free(target: Place) -> None:
    """Raise `BadInput` when something is at an address that is no leftover of a bundle."""
    if target.is_file() or set(target.names()) - {*FILES, CALIBRATION}:
        raise BadInput(f"{target.shown}: exists already; expected an address where nothing is")


def _put(built: Path, target: Place) -> None:
    """Put the files of a bundle into a bucket, its card last."""
    for name in sorted({file.name for file in built.iterdir()} - {CARD}):
        (target / name).upload(built / name)
    if not (target / CARD).write_new((built / CARD).read_bytes()):
        raise BadInput(f"{target.shown}: exists already; another command has made it meanwhile")


def _load(folder: Place, name: str, card: Mapping[str, Any], load: Callable[[Path], T]) -> T:
    """What is in a file of a bundle, if it is the one that the card tells of."""
    try:
        with (folder / name).local() as file:
            if not file.is_file():
                raise FileNotFoundError
            if _sha256(file) != card["sha256"].get(name):
                raise BadInput(f"bundle {folder.shown}: {name} is damaged, its SHA-256 is not the one in card.json")
            return load(file)
    except FileNotFoundError:
        raise BadInput(f"bundle {folder.shown}: {name} is missing") from None
    except BadInput:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"bundle {folder.shown}: {one_line(error)}") from error


def is_calibrated(card: Mapping[str, Any]) -> bool:
    """Whether a bundle with this card has a calibration."""
    return bool(card["format"] == FORMATS[1])


def files_of(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the files of a bundle with this card, whose checksums are in it."""
    return (*FILES, CALIBRATION) if is_calibrated(card) else FILES


def _digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of a card without its own checksums: labels and genes must belong to the weights."""
    rest = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _sha256(path: PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def for_workers(bundle: CFGen | PathLike) -> CFGen | PathLike:
    """A bundle as workers can open it, who are in folders of their own: its absolute path, or a CFGen as it is."""
    if isinstance(bundle, CFGen) or is_remote(bundle):
        return bundle
    return on_disk(bundle).absolute()


def load_model(bundle: CFGen | PathLike, device: str = "cpu") -> CFGen:
    """The model of a bundle (a path, or a CFGen already) on a device, in whatever process this runs."""
    return (bundle if isinstance(bundle, CFGen) else CFGen.load(bundle)).to(device)
