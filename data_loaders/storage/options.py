"""How object storage is reached: options that were given, before those of the environment and of profiles.

Options are those of obstore (`endpoint`, `region`, `access_key_id`, `skip_signature`, ...) and of its HTTP client
(`timeout`, `proxy_url`, ...). What the user gives (`--storage KEY=VALUE`) holds for the process and all processes that
it starts, for it is kept in its environment. `carried` is what a process on another machine needs.
"""

from __future__ import annotations

import configparser
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GIVEN = "DATA_LOADERS_STORAGE"  # environment variable: the options that were given, as JSON
CARRIED = re.compile(r"(AWS|GOOGLE|AZURE)_[A-Z0-9_]+|STORAGE_EMULATOR_HOST|DATA_LOADERS_STORAGE")
OF_ONE_MACHINE = re.compile(r".*(_FILE|_RELATIVE_URI|_FULL_URI)|AWS_PROFILE|GOOGLE_APPLICATION_CREDENTIALS")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
CLIENT = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "read_timeout", "timeout", "proxy_url",
    "proxy_ca_certificate", "proxy_excludes", "root_certificate", "user_agent",
)  # fmt: skip


def use_storage(options: Mapping[str, object] | None) -> None:
    """Have all addresses be reached with these options, in this process and those that it starts from now on.

    Parameters
    ----------
    options : dict or None
        Options of obstore, as `{"endpoint": "http://localhost:9000"}`. They overrule the environment. None, or none:
        the environment alone.
    """
    if options:
        os.environ[GIVEN] = json.dumps({name: str(value) for name, value in options.items()})
    else:
        os.environ.pop(GIVEN, None)


def given_storage() -> dict[str, str]:
    """The options that `use_storage` was given."""
    try:
        found = json.loads(os.environ.get(GIVEN) or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"the environment variable {GIVEN} is no JSON object; unset it")
    return {str(name): str(value) for name, value in found.items()}


def read_options(words: Sequence[str] | None) -> dict[str, str]:
    """Options from words such as `endpoint=http://localhost:9000`.

    Raises
    ------
    BadInput
        A word without `=`, or a key given twice.
    """
    options: dict[str, str] = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            raise BadInput(f"`storage` has {word.partition('=')[0]!r}; expected KEY=VALUE, as region=eu-central-1")
        if key in options:
            raise BadInput(f"`storage` gives {key!r} twice")
        options[key] = value
    return options


def carried() -> dict[str, str]:
    """What of this process's environment says how storage is reached: for `carry` in a process on another machine.

    It holds secrets: hand it over as an argument, and write it nowhere. Names of files on this machine are left out.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if CARRIED.fullmatch(name) and not OF_ONE_MACHINE.fullmatch(name)
    } | _resolved_profile()


def carry(found: Mapping[str, str]) -> None:
    """Reach storage as the process did that called `carried`."""
    os.environ.update(found)


def _resolved_profile() -> dict[str, str]:
    """Keys of a profile of this machine, as environment variables; none where the environment has keys."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    profile = aws_profile()
    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
             "aws_session_token": "AWS_SESSION_TOKEN", "region": "AWS_REGION",
             "endpoint_url": "AWS_ENDPOINT_URL"}  # fmt: skip
    return {name: profile[key] for key, name in names.items() if key in profile and name not in os.environ}


def settings_of(service: str, given: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """How a service is reached.

    Parameters
    ----------
    service : str
        `s3`, `gs`, `az` or `http`.
    given : dict or None
        Options that overrule those of `use_storage`.

    Returns
    -------
    config : dict
        Options of obstore for the service. What is not here comes from the environment, which obstore reads.
    client : dict
        Options of its HTTP client.
    credentials : callable or None
        Gives keys that have to be fetched, as those of a role.

    Raises
    ------
    BadInput
        A profile that is not there, or that needs boto3.
    """
    options: dict[str, Any] = {key.lower(): value for key, value in {**given_storage(), **dict(given or {})}.items()}
    client = {key: options.pop(key) for key in CLIENT if key in options}
    for key in ("allow_http", "allow_invalid_certificates"):
        if key in client:
            client[key] = str(client[key]).lower() in ("1", "true", "yes")
    for prefix in ("aws_", "google_", "azure_"):
        options = {key.removeprefix(prefix): value for key, value in options.items()}
    if "endpoint_url" in options:  # as AWS's own programs call it
        options.setdefault("endpoint", options.pop("endpoint_url"))
    credentials = None
    if service == "s3":
        credentials = _settle_s3(options)
        endpoints = [options.get("endpoint", "")]
    elif service == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if emulator and "base_url" not in options and "GOOGLE_BASE_URL" not in os.environ:
            options["base_url"] = emulator if "://" in emulator else f"http://{emulator}"
            options.setdefault("skip_signature", "true")
        endpoints = [options.get("base_url", ""), os.environ.get("GOOGLE_BASE_URL", "")]
    elif service == "az":
        _settle_azure(options)
        endpoints = [options.get("endpoint", ""), os.environ.get("AZURE_ENDPOINT", "")]
    else:
        options, endpoints = {}, []
    if any(str(endpoint).lower().startswith("http://") for endpoint in endpoints):
        client.setdefault("allow_http", True)
    return options, client, credentials


def _settle_s3(options: dict[str, Any]) -> Any:
    """Fill in endpoint, region and keys as AWS's own programs find them; returns a provider of keys, or None."""
    environ = os.environ
    profile = aws_profile()
    endpoint = next((environ[name] for name in ENDPOINTS if environ.get(name)), profile.get("endpoint_url"))
    if endpoint:
        options.setdefault("endpoint", endpoint)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or profile.get("region")
    if region:
        options.setdefault("region", region)
    if "access_key_id" in options or str(options.get("skip_signature", "")).lower() in ("1", "true", "yes"):
        return None
    if environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWS_SKIP_SIGNATURE"):
        return None
    if "aws_access_key_id" in profile:
        options["access_key_id"] = profile["aws_access_key_id"]
        options["secret_access_key"] = profile.get("aws_secret_access_key", "")
        if "aws_session_token" in profile:
            options["session_token"] = profile["aws_session_token"]
        return None
    fetched = [key for key in ("role_arn", "sso_session", "sso_start_url", "credential_process") if key in profile]
    if not fetched:
        return None  # a web identity, a container's role, a machine's: obstore asks for them itself
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ImportError:
        raise BadInput(
            f"the AWS profile {_profile_name()!r} has {fetched[0]}, which boto3 resolves and is not installed: install "
            "it, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except Exception as error:
        from data_loaders.storage.address import told

        raise BadInput(f"the AWS profile {_profile_name()!r} gives no keys ({told(error)})") from None


def _settle_azure(options: dict[str, Any]) -> None:
    """Take over a connection string, which obstore does not read."""
    text = options.pop("connection_string", None) or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    if not text:
        return
    parts = dict(piece.split("=", 1) for piece in str(text).split(";") if "=" in piece)
    names = {"AccountName": "account_name", "AccountKey": "account_key", "SharedAccessSignature": "sas_key",
             "BlobEndpoint": "endpoint"}  # fmt: skip
    for name, key in names.items():
        if name in parts:
            options.setdefault(key, parts[name])


def _profile_name() -> str:
    return os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"


def aws_profile() -> dict[str, str]:
    """The profile of AWS that counts here: that of AWS_PROFILE, or `default`; empty where there is none.

    Raises
    ------
    BadInput
        AWS_PROFILE names one that is not there, or its files cannot be read.
    """
    name, found = _profile_name(), {}
    files = {
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"): name if name == "default" else f"profile {name}",
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"): name,
    }
    for file, section in files.items():
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(file).expanduser(), encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError, RuntimeError) as error:
            raise BadInput(f"{file}: cannot be read ({' '.join(str(error).split())[:100]})") from None
        if parser.has_section(section):
            found.update({key: value.strip() for key, value in parser.items(section)})
            service = found.get("services")
            if service and parser.has_option(f"services {service}", "s3"):
                endpoint = re.search(r"endpoint_url\s*=\s*(\S+)", parser.get(f"services {service}", "s3"))
                found.update({"endpoint_url": endpoint[1]} if endpoint else {})
    if not found and name != "default" and not os.environ.get("AWS_ACCESS_KEY_ID"):
        raise BadInput(f"AWS_PROFILE is {name!r}, which is in none of {', '.join(files)}")
    return found
