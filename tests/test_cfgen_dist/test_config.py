"""The config tree: every preset loads, every mistake is named."""

import copy
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from cfgen_dist.config import LIKELIHOODS, SOLVERS, load_config, presets, save_config, settings, to_dict
from data_loaders.errors import BadInput


def test_saved_config_reads_back(tmp_path):
    config = load_config(
        overrides={"flow.batch_size": "512", "autoencoder.hidden": "64,32", "labels": "donor,cell_type"}
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(to_dict(config)) == config


def test_a_group_may_be_empty(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 3\nflow:\n")  # as it looks when every key in it is commented out
    assert load_config(tmp_path / "config.yaml") == load_config(overrides={"seed": 3})


def test_a_preset_names_a_guidance_only_with_what_was_measured_beside_it():
    """What it costs in correlation error is written down, and is no more than 0.05."""
    named = []
    for name in presets():
        text = resources.files("cfgen_dist").joinpath("presets", f"{name}.yaml").read_text()
        if "guidance:" not in text:
            assert load_config(name).sampling.guidance == 1
            continue
        before = text[: text.index("guidance: ")].rsplit("sampling:", 1)[1]
        found = re.search(r"correlation error ([\d.]+) for ([\d.]+)", before)
        assert found, f"{name}: no measured reason in a comment over its guidance"
        assert float(found[1]) - float(found[2]) <= 0.05, name
        named.append(name)
    assert named == ["pbmc3k"]


def test_presets_are_the_papers_datasets_and_load():
    assert presets() == ["dentate_gyrus", "hlca", "multiome", "neurips", "pbmc3k", "pbmc_covid", "tabula_muris"]
    for name in presets():
        load_config(name)


def test_any_key_can_be_set_and_types_are_kept():
    for key, setting in settings().items():
        default = setting.default
        value = load_config(overrides={key: default})
        for part in key.split("."):
            value = getattr(value, part)
        assert value == default
        assert type(value) is type(default)
    assert load_config(overrides={"flow.lr": "1e-4"}).flow.lr == 1e-4
    assert load_config(overrides={"size_factor.covariate": "null"}).size_factor.covariate is None


def test_a_key_that_is_assigned_is_checked_like_one_that_is_read():
    config = load_config("hlca")
    changed = copy.deepcopy(config)
    changed.flow.max_steps, changed.labels = "7", ("donor",)
    assert (changed.flow.max_steps, changed.labels) == (7, ["donor"])
    assert (config.flow.max_steps, config.labels) == (100_000, None), "the copy is another tree"
    assert load_config().flow is not load_config().flow, "nor is a group of defaults shared"
    with pytest.raises(BadInput, match=r"^FlowConfig: batch_size is 0, expected at least 1$"):
        changed.flow.batch_size = 0
    with pytest.raises(BadInput, match=r"^FlowConfig: unknown key 'batchsize', did you mean 'batch_size'\?$"):
        changed.flow.batchsize = 3


def test_values_keep_the_order_of_their_definition():
    """Runs and bundles hold them as text, with a digest of it."""
    found = [
        f"{key}.{name}" if isinstance(value, dict) else key
        for key, value in to_dict(load_config()).items()
        for name in (value if isinstance(value, dict) else [None])
    ]
    assert found == list(settings())


def test_every_key_says_what_it_means_and_what_it_may_be():
    for key, setting in settings().items():
        assert len(setting.meaning) > 10, key
        assert setting.allowed, key
    assert settings()["flow.p_cond"].allowed == "a number from 0 to 1"
    assert settings()["flow.max_steps"].allowed == "a whole number, at least 1, or null"
    assert settings()["seed"].allowed == "a whole number, 0 to 2**63 - 1"
    assert settings()["modalities.likelihood"].allowed == (
        "pairs such as atac=bernoulli, each one of nb, bernoulli, poisson"
    )


def test_choices_are_what_the_model_knows():
    """The config lists them where importing is cheap; the networks are where they are defined."""
    from cfgen_dist.generation.options import SIZE_FACTOR_LAWS
    from cfgen_dist.model import autoencoder, likelihoods, solvers

    assert SOLVERS == solvers.SOLVERS
    assert tuple(likelihoods.LIKELIHOODS) == LIKELIHOODS
    assert settings()["size_factor.law"].choices == SIZE_FACTOR_LAWS
    assert {*settings()["autoencoder.input"].choices} < {*autoencoder.INPUTS}
    for name in LIKELIHOODS:
        config = load_config(overrides={"modalities.likelihood": f"atac={name}"})
        assert config.modalities.likelihood == {"atac": name}


def test_the_settings_page_of_the_docs_is_current():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    written = subprocess.run(
        [sys.executable, "-m", "cfgen_dist.config"], capture_output=True, text=True, check=True
    ).stdout
    assert page.read_text(encoding="utf-8") == written, "run: python -m cfgen_dist.config > docs/settings.md"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"flow.batchsize": 3}, "unknown setting 'flow.batchsize', did you mean 'flow.batch_size'?"),
        ({"flow.lr": "fast"}, "command line: flow.lr is 'fast', expected a number"),
        ({"flow.batch_size": 2.5}, "flow.batch_size is 2.5, expected a whole number"),
        ({"flow.batch_size": True}, "flow.batch_size is True, expected a whole number"),
        ({"flow.batch_size": 0}, "flow.batch_size is 0, expected at least 1"),
        ({"flow.conditioning": "all"}, "flow.conditioning is 'all', expected one of single, joint"),
        ({"flow.condition_on_size_factor": "3"}, "flow.condition_on_size_factor is 3, expected true or false"),
        ({"flow.p_cond": 1.5}, "flow.p_cond is 1.5, expected a number from 0 to 1"),
        ({"flow.ema": 1.0}, "flow.ema is 1.0, expected at least 0 and below 1"),
        (
            {"autoencoder.hidden": "512,0"},
            "autoencoder.hidden has 0, expected a list of whole numbers, each at",
        ),
        ({"autoencoder.hidden": "512,wide"}, "autoencoder.hidden has 'wide', expected a list of whole numbers"),
        ({"seed": 2**64}, "seed is 18446744073709551616, expected 0 to 2**63 - 1"),
        ({"flow.max_steps": ".inf"}, "flow.max_steps is inf, expected a whole number"),
        ({"labels": "[cell_type"}, "labels is '[cell_type', which YAML cannot read"),
        ({"flow.embedding": 1}, "flow.embedding is 1, expected at least 2"),
        ({"autoencoder.lr": 0}, "autoencoder.lr is 0.0, expected a positive number"),
        ({"autoencoder.weight_decay": -1}, "autoencoder.weight_decay is -1.0, expected zero or more"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(BadInput) as error:
        load_config(overrides=overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow: {widht: 3}", "unknown key 'flow.widht'"),
        ("flow: 3", "flow is 3, expected a group of keys"),
        ("flows: {}", "unknown key 'flows'"),
        ("3: 4", "unknown key '3'"),
        ("flow: {4: 4}", "unknown key 'flow.4'"),
        ("flow: {batch_size: 0}", "bad.yaml: flow.batch_size is 0, expected at least 1"),
        ("modalities: {likelihood: {atac: nbb}}", "modalities.likelihood has 'nbb', expected pairs such as atac=bern"),
        ("{flow: {lr: 0, ema: x}, sed: 3}", "unknown key 'sed', did you mean 'seed'?"),
        ("- 1", "holds a list, expected keys and values"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        load_config(path)
    assert message in str(error.value)
    assert "bad.yaml" in str(error.value)


def test_unknown_preset_or_file(tmp_path):
    with pytest.raises(BadInput, match="neither a YAML file nor a preset: did you mean 'pbmc3k'"):
        load_config("pbmc3")
    with pytest.raises(BadInput, match=r"none.yaml does not exist"):
        load_config(tmp_path / "none.yaml")
