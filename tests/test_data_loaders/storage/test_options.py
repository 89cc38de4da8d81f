"""Where options of object storage come from, and which one counts."""

import os
import subprocess
import sys

import pytest
from buckets import KEYS

from data_loaders import BadInput
from data_loaders.storage import carried, carry, place, use_storage
from data_loaders.storage.options import read_options, settings_of


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """An environment without any key, and a home without profiles."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "STORAGE_", "DATA_LOADERS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def test_words_are_read():
    assert read_options(["Endpoint=http://h:1/?a=b", "region="]) == {"endpoint": "http://h:1/?a=b", "region": ""}
    for words, message in ((["a"], "expected KEY=VALUE"), (["=b"], "expected KEY=VALUE"), (["a=1", "A=2"], "twice")):
        with pytest.raises(BadInput, match=message):
            read_options(words)


def test_profiles_count(bucket, nothing, monkeypatch):
    (nothing / "config").write_text(
        f"[default]\nregion = x\n[profile lab]\nregion = eu-west-3\nendpoint_url = {bucket.endpoint}\n"
    )
    (nothing / "credentials").write_text("[lab]\naws_access_key_id = id\naws_secret_access_key = word\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    config, client, _ = settings_of("s3", None)
    expected = {"endpoint": bucket.endpoint, "region": "eu-west-3", "access_key_id": "id", "secret_access_key": "word"}
    assert config == expected
    assert client == {"allow_http": True}
    place(f"{bucket.url}/a").write(b"by profile")
    assert bucket.read("a") == b"by profile"
    found = carried()
    assert found["AWS_ACCESS_KEY_ID"] == "id"
    assert "AWS_PROFILE" not in found, "its file is on this machine alone"
    monkeypatch.setenv("AWS_REGION", "us-east-2")  # the environment comes first, and options before it
    assert settings_of("s3", None)[0]["region"] == "us-east-2"
    assert settings_of("s3", {"region": "r"})[0]["region"] == "r"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BadInput, match="AWS_PROFILE is 'nobody', which is in none of"):
        settings_of("s3", None)


def test_the_endpoint_of_a_service_section(nothing, monkeypatch):
    (nothing / "config").write_text("[default]\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = http://h:1\n")
    assert settings_of("s3", None)[0]["endpoint"] == "http://h:1"


def test_a_profile_that_asks_for_keys_is_resolved_by_boto3(bucket, nothing, monkeypatch):
    program = nothing / "keys.sh"
    program.write_text('echo \'{"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "word"}\'\n')
    (nothing / "config").write_text(f"[profile ask]\ncredential_process = sh {program}\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "ask")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    place(f"{bucket.url}/a").write(b"x")
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(BadInput, match="'ask' has credential_process, which boto3 resolves and is not installed"):
        place(f"{bucket.url}/a").read()


def test_a_damaged_profile_is_one_line(nothing):
    (nothing / "config").write_text("no section\n")
    with pytest.raises(BadInput, match=r"~/.aws/config: cannot be read"):
        settings_of("s3", None)


def test_azure_and_google_by_their_environment(nothing, monkeypatch):
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=a2V5==;BlobEndpoint=http://127.0.0.1:1/me;",
    )
    config, client, _ = settings_of("az", None)
    assert config == {"account_name": "me", "account_key": "a2V5==", "endpoint": "http://127.0.0.1:1/me"}
    assert client == {"allow_http": True}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:4443")
    config, client, _ = settings_of("gs", None)
    assert config == {"base_url": "http://127.0.0.1:4443", "skip_signature": "true"}
    assert client == {"allow_http": True}


def test_an_unknown_option_is_refused(bucket):
    use_storage({"endpont": "x"})
    with pytest.raises(BadInput, match="'endpont' is not valid"):
        place(f"{bucket.url}/a").read()
    use_storage(None)


def test_options_hold_in_processes_that_are_started(bucket, nothing, monkeypatch):
    """Spawned ones by the environment, those of other machines by what is carried there."""
    use_storage({"endpoint": bucket.endpoint, "access_key_id": "id", "secret_access_key": "word"})
    place(f"{bucket.url}/a").write(b"read")
    program = "import sys; from data_loaders.storage import place; print(place(sys.argv[1]).read().decode())"
    command = [sys.executable, "-c", program, f"{bucket.url}/a"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "read\n"
    found = carried()
    use_storage(None)
    carry(found)
    assert place(f"{bucket.url}/a").read() == b"read"
    use_storage(None)


def test_keys_of_the_environment_are_carried(bucket):
    assert carried().items() >= {**KEYS, "AWS_ENDPOINT_URL": bucket.endpoint}.items()


def test_a_forked_process_is_told_not_to_wait_for_ever(bucket):
    place(f"{bucket.url}/a").write(b"x")
    child = os.fork()
    if child == 0:
        try:
            place(f"{bucket.url}/a").read()
        except BadInput as error:
            os._exit(7 if "spawn" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
