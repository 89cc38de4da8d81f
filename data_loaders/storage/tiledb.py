"""TileDB reaches addresses by its own means: its settings, from the same options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_loaders.errors import BadInput
from data_loaders.storage.address import is_remote
from data_loaders.storage.opened import spot_of
from data_loaders.storage.options import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data_loaders.types import PathLike

S3 = {
    "access_key_id": "vfs.s3.aws_access_key_id",
    "secret_access_key": "vfs.s3.aws_secret_access_key",
    "session_token": "vfs.s3.aws_session_token",
    "region": "vfs.s3.region",
}
AZURE = {
    "account_name": "vfs.azure.storage_account_name",
    "account_key": "vfs.azure.storage_account_key",
    "sas_key": "vfs.azure.storage_account_sas_token",
    "endpoint": "vfs.azure.blob_endpoint",
}
OF_ENVIRONMENT = {
    "vfs.azure.storage_account_name": "AZURE_STORAGE_ACCOUNT_NAME",
    "vfs.azure.storage_account_key": "AZURE_STORAGE_ACCOUNT_KEY",
}


def tiledb_config(uri: PathLike, given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Settings of TileDB for a URI; none for a path, and for addresses that it alone knows (tiledb://).

    Parameters
    ----------
    uri : path-like or address
    given : dict, optional
        Options of obstore that overrule those of `use_storage`.
    """
    if not is_remote(uri):
        return {}
    try:
        service = spot_of(uri).service
    except BadInput:
        return {}
    options, _, _ = settings_of(service, given)
    if service == "s3":
        config = {name: str(options[key]) for key, name in S3.items() if key in options}
        if str(options.get("skip_signature", os.environ.get("AWS_SKIP_SIGNATURE", ""))).lower() in ("1", "true", "yes"):
            config["vfs.s3.no_sign_request"] = "true"
        endpoint = urlsplit(str(options.get("endpoint", "")))
        if endpoint.netloc:
            config |= {
                "vfs.s3.endpoint_override": endpoint.netloc + endpoint.path.rstrip("/"),
                "vfs.s3.scheme": endpoint.scheme,
                "vfs.s3.use_virtual_addressing": str(options.get("virtual_hosted_style_request", "false")).lower(),
            }
        return config
    if service == "az":
        config = {name: os.environ[key] for name, key in OF_ENVIRONMENT.items() if key in os.environ}
        return config | {name: str(options[key]) for key, name in AZURE.items() if key in options}
    return {"vfs.gcs.endpoint": str(options["base_url"])} if "base_url" in options else {}
