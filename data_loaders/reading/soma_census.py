"""The CELLxGENE Census: which experiment of it is meant, which of its cells are copies, and how its bucket is reached.

Its form is docs/cellxgene_census_schema.md of chanzuckerberg/cellxgene-census, versions 1.0 to 2.4: a collection with
`census_info` (tables about the release) and `census_data` (one experiment for each organism). A cell that several
datasets hold is primary in one of them (`is_primary_data`) and a copy in the others.
"""

from collections.abc import Mapping
from typing import Any

from data_loaders.errors import BadInput, nearest
from data_loaders.reading.soma_words import of_object
from data_loaders.storage.tiledb import tiledb_config
from data_loaders.types import PathLike

DATA, INFO = "census_data", "census_info"
PRIMARY = "is_primary_data"
PRESENCE = "feature_dataset_presence_matrix"  # of a measurement: only the Census has it
REGIONS = {"cellxgene-census-public-us-west-2": "us-west-2"}  # of public buckets, read without an account


def open_experiment(uri: str, organism: str | None, context: Any) -> Any:
    """Open an experiment, or that of an organism in a Census.

    Parameters
    ----------
    uri : str
        An experiment, the root of a Census, or its collection `census_data`.
    organism : str, optional
        Such as "homo_sapiens" or "Homo sapiens"; may be left out where a Census has a single one.
    context : tiledbsoma.SOMATileDBContext

    Raises
    ------
    BadInput
        There is neither, no such organism, several to choose from, or a single experiment to choose within.
    """
    import tiledbsoma

    try:
        experiment = tiledbsoma.Experiment.open(uri, context=context)
    except (tiledbsoma.DoesNotExistError, tiledbsoma.SOMAError, TypeError) as error:
        found = _member(uri, organism, context)
        if found is None:
            raise BadInput(f"{uri}: {of_object(uri, context, error)}") from error
        return tiledbsoma.Experiment.open(found, context=context)
    if organism is not None:
        experiment.close()
        raise BadInput(f"{uri}: `organism={organism!r}` chooses within a Census; this is a single SOMA experiment")
    return experiment


def release(uri: str, context: Any) -> str:
    """What the root of a Census says of itself, such as " (Census of 2025-11-08, schema 2.4.0)"; empty elsewhere."""
    import tiledbsoma

    try:
        opened: Any = tiledbsoma.Collection.open(uri, context=context)
        with opened as root:
            table = root[INFO]["summary"].read(column_names=["label", "value"]).concat().to_pydict()
    except Exception:  # words about the release: nothing depends on them
        return ""
    said = dict(zip(table["label"], table["value"], strict=True))
    return f" (Census of {said.get('census_build_date', '?')}, schema {said.get('census_schema_version', '?')})"


def note(uri: str, n_copies: int, context: Any) -> str:
    """What is said of cells that were left out because other datasets hold them too."""
    return (
        f"{uri}{release(uri, context)}: {n_copies:,} cells that are copies of cells in other datasets (`{PRIMARY}` is "
        f"False) are left out; `obs_filter='{PRIMARY} in [True, False]'` takes copies too"
    )


def is_public(uri: PathLike) -> bool:
    """Whether an address is in a public bucket of the Census, which is read without an account and not listed."""
    bucket, _, key = str(uri).removeprefix("s3://").partition("/")
    return str(uri).startswith("s3://") and bucket in REGIONS and "soma" in key.split("/")


def settings(uri: PathLike, given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """TileDB's settings for a URI: those given, else what other stores are reached by, or those of a public bucket.

    Parameters
    ----------
    uri : path-like
    given : dict, optional
        TileDB's own settings, whose names have a dot, and options as of other stores (`region`, `endpoint`,
        `skip_signature`, ...).
    """
    own = {key: str(value) for key, value in (given or {}).items() if "." in key}
    config = tiledb_config(uri, {key: value for key, value in (given or {}).items() if "." not in key})
    if is_public(uri) and "vfs.s3.endpoint_override" not in config | own:
        region = REGIONS[str(uri).removeprefix("s3://").partition("/")[0]]
        config = {key: value for key, value in config.items() if ".aws_" not in key}
        config |= {"vfs.s3.region": region, "vfs.s3.no_sign_request": "true"}
    return config | own


def _member(uri: str, organism: str | None, context: Any) -> str | None:
    """Address of an organism's experiment in a Census; None where there is no Census."""
    import tiledbsoma

    try:
        opened: Any = tiledbsoma.Collection.open(uri, context=context)
        with opened as root:
            data = root.get(DATA, root)
            if DATA not in root and (organism is None or not len(root)):
                return None
            known = {name: str(data[name].uri) for name in data if isinstance(data[name], tiledbsoma.Experiment)}
            is_census = DATA in root and INFO in root
    except (tiledbsoma.SOMAError, tiledbsoma.DoesNotExistError, TypeError, KeyError):
        return None
    if not known or (organism is None and not is_census):
        return None
    if organism is None:
        if len(known) > 1:
            raise BadInput(f"{uri}: a Census of {', '.join(sorted(known))}; choose one by `organism=NAME`")
        return next(iter(known.values()))
    name = "_".join(organism.casefold().split())
    if name not in known:
        raise BadInput(f"{uri}: no organism {organism!r} in this Census; {nearest(name, sorted(known))}")
    return known[name]
