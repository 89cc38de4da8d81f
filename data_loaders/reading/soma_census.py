"""The CELLxGENE Census: which experiment of it is meant, which of its cells are copies, and how its bucket is reached.

Its form is docs/cellxgene_census_schema.md of chanzuckerberg/cellxgene-census, versions 1.0 to 2.4: a collection with
`census_info` (tables about the release) and `census_data` (one experiment for each organism). A cell that several
datasets hold is primary in one of them (`is_primary_data`) and a copy in the others.
"""

import os
from typing import Any

from data_loaders.errors import BadInput, nearest
from data_loaders.reading.soma_words import of_object

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


def is_remote_soma(uri: str, storage: dict[str, Any] | None = None) -> bool:
    """Whether a SOMA collection is in a bucket at an address; False where that cannot be told."""
    if not uri.startswith("s3://"):
        return False
    try:
        import tiledbsoma

        settings: dict[str, str | float] = {**tiledb_config(uri, storage)}
        context = tiledbsoma.SOMATileDBContext(tiledb_config=settings)
        return bool(tiledbsoma.Collection.exists(uri, context) or tiledbsoma.Experiment.exists(uri, context))
    except Exception:  # whoever reads the store says what is wrong
        return False


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


def tiledb_config(uri: str, storage: dict[str, Any] | None = None) -> dict[str, str]:
    """TileDB's settings for a bucket: those given, else the environment variables that other stores are read by.

    Parameters
    ----------
    uri : str
    storage : dict, optional
        `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`, `skip_signature`, as for other
        stores; keys with a dot are TileDB's own and are passed on.
    """
    given = dict(storage or {})
    config = {key: str(given.pop(key)) for key in list(given) if "." in key}
    if not uri.startswith("s3://"):
        return config

    def setting(name: str, *variables: str) -> str:
        known = given.get(name, given.get(f"aws_{name}"))
        return str(known) if known is not None else next((os.environ[v] for v in variables if os.environ.get(v)), "")

    endpoint = setting("endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    home = "" if endpoint else REGIONS.get(uri.removeprefix("s3://").partition("/")[0], "")
    region = setting("region") or home or setting("region", "AWS_REGION", "AWS_DEFAULT_REGION")
    found = {"vfs.s3.region": region}
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        found |= {
            "vfs.s3.endpoint_override": host.rstrip("/"),
            "vfs.s3.scheme": scheme or "https",
            "vfs.s3.use_virtual_addressing": "false",
        }
    names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
    names["session_token"] = "aws_session_token"
    found |= {f"vfs.s3.{theirs}": setting(ours, theirs.upper()) for ours, theirs in names.items()}
    unsigned = setting("skip_signature", "AWS_SKIP_SIGNATURE").casefold() in ("true", "1", "yes")
    if unsigned or home:
        found = {key: value for key, value in found.items() if "aws_" not in key} | {"vfs.s3.no_sign_request": "true"}
    return {key: value for key, value in found.items() if value} | config


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
