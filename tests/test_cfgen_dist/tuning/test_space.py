"""Search spaces: what a file may say, what it means, and every sentence that refuses it."""

import json
from pathlib import Path

import numpy as np
import pytest

from cfgen_dist.config import load_config
from cfgen_dist.training.settle import settle
from cfgen_dist.tuning import space as space_module
from cfgen_dist.tuning.distributions import Choice, Distribution, Range, decode, encode, to_optuna
from cfgen_dist.tuning.space import as_json, check_changeable, load_space, spaces
from data_loaders import open_atlas
from data_loaders.errors import BadInput


@pytest.fixture(scope="module")
def base(tiny_atlas):
    config = load_config()
    settle(config, open_atlas(tiny_atlas), here=False)
    return config


def test_distributions_are_typed_by_the_config(base):
    space = load_space(
        {
            "autoencoder": {
                "lr": {"loguniform": ["1e-4", 1]}, "latent_dim": {"uniform": [5, 20]},
                "theta_covariate": {"choice": [None, "auto"]}, "hidden": {"choice": [[8], [16, 8]]},
            },
            "flow": {"max_steps": {"times": [0.5, 1, 2]}, "ema": {"choice": [0.999]}, "blocks": {"choice": [3]}},
        },
        base,
    )  # fmt: skip
    assert space["autoencoder"] == {
        "autoencoder.lr": Range(1e-4, 1.0, log=True, whole=False),
        "autoencoder.latent_dim": Range(5, 20, log=False, whole=True),
        "autoencoder.theta_covariate": Choice((None, "cell_type")),
        "autoencoder.hidden": Choice(([8], [16, 8])),
    }
    assert space["flow"] == {"flow.max_steps": Choice((1000, 2000, 4000)), "flow.blocks": Choice((3,))}, (
        "the base's own value alone is no search; another one alone is what every other trial gets"
    )
    assert space["sampling"] == {}
    assert load_space(json.loads(json.dumps(as_json(space))), base) == space


def test_the_packaged_space_explains_every_distribution():
    text = (Path(space_module.__file__).parent / "spaces" / "default.yaml").read_text(encoding="utf-8")
    for name, field in Distribution.model_fields.items():
        assert f"#   {name}: [" in text
        assert field.description in text


@pytest.mark.parametrize("name", spaces())
def test_packaged_spaces_hold_the_defaults(name, base):
    """So the search may go on from them: every default lies inside, and pbt's keys can be changed."""
    space = load_space(name, base)
    for stage in ("autoencoder", "flow"):
        assert space[stage]
        values = {}
        for key in space[stage]:
            group, _, leaf = key.partition(".")
            values[key] = getattr(getattr(base, group), leaf)
        assert encode(values, space[stage]) is not None
    if name == "pbt":
        check_changeable(space, name)


def test_suggestions_become_configs(base):
    """What Optuna draws from the packaged space is what `load_config` takes, and can be told apart again."""
    import optuna

    keys = load_space("default", base)["autoencoder"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(30):
        values = decode(study.ask(to_optuna(keys)).params, keys)
        load_config(overrides=values)
        assert decode(encode(values, keys), keys) == values
        drawn.append(values["autoencoder.lr"])
    assert min(drawn) < 6e-4 < 1.5e-3 < max(drawn), "log-uniform over a decade"
    assert np.std(np.log(drawn)) > 0.4
    assert encode(values | {"autoencoder.lr": 1.0}, keys) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ([1], "search space x.yaml: holds a list, expected groups of keys: autoencoder, modalities"),
        ({"autoencodr": {}}, "unknown group 'autoencodr', did you mean 'autoencoder'?"),
        ({"flow": 3}, "flow is 3, expected keys with a distribution each"),
        ({"flow": {"hiden": {"choice": [1]}}}, "unknown key 'flow.hiden', did you mean 'flow.hidden'?"),
        ({"flow": {"lr": 0.1}}, "flow.lr is 0.1, expected one distribution such as {choice: [values]}"),
        ({"flow": {"lr": {"lognormal": [1, 2]}}}, "unknown distribution 'lognormal', did you mean 'loguniform'?"),
        ({"flow": {"lr": {"choice": 3}}}, "flow.lr has choice: 3, expected a list"),
        ({"flow": {"lr": {"choice": None}}}, "flow.lr has choice: None, expected a list"),
        ({"flow": {"lr": {3: [1]}}}, "unknown distribution '3', valid: choice, uniform, loguniform, times"),
        ({"flow": {"lr": {"times": [1, float("nan")]}}}, "flow.lr has nan, expected a number"),
        ({"flow": {"conditioning": {"uniform": [0, 1]}}}, "conditioning is no number, expected choice, not uniform"),
        ({"autoencoder": {"hidden": {"uniform": [1, 9]}}}, "autoencoder.hidden is no number, expected choice"),
        ({"flow": {"lr": {"uniform": [1, 2, 3]}}}, "flow.lr has uniform: [1, 2, 3], expected [low, high]"),
        ({"flow": {"lr": {"uniform": [2, 1]}}}, "flow.lr has uniform: [2, 1], expected low below high"),
        ({"flow": {"lr": {"loguniform": ["a", 1]}}}, "flow.lr has 'a', expected a number"),
        ({"flow": {"weight_decay": {"loguniform": [0, 1]}}}, "decay has loguniform: [0, 1], expected low above 0"),
        ({"flow": {"p_cond": {"uniform": [0, 1.5]}}}, "flow.p_cond is 1.5, expected a number from 0 to 1"),
        ({"autoencoder": {"dropout": {"uniform": [-0.1, 0.5]}}}, "autoencoder.dropout is -0.1, expected at least 0"),
        ({"autoencoder": {"latent_dim": {"choice": [10, "many"]}}}, "latent_dim is 'many', expected a whole number"),
        ({"autoencoder": {"latent_dim": {"uniform": [1.5, 4]}}}, "latent_dim is 1.5, expected a whole number"),
        ({"sampling": {"solver": {"choice": ["euler", "rk4"]}}}, "sampling.solver is not searched, expected sampling"),
        ({"sampling": {"steps": {"uniform": [2, 9]}}}, "sampling.steps is scored value by value, expected choice"),
    ],
)  # fmt: skip
def test_mistakes_are_named(space, message, base, tmp_path):
    import yaml

    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(space))
    with pytest.raises(BadInput) as caught:
        load_space(path, base)
    text = str(caught.value).replace(str(tmp_path) + "/", "")
    assert text.startswith("search space x.yaml: ")
    assert message in text
    assert "\n" not in text


def test_files_that_are_none(base, tmp_path):
    with pytest.raises(BadInput, match=r"nothing\.yaml does not exist"):
        load_space(tmp_path / "nothing.yaml", base)
    with pytest.raises(BadInput, match=r"'nothing' is neither a YAML file nor one of: default, pbt"):
        load_space("nothing", base)
    Path(tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(BadInput, match=r"bad\.yaml is not valid YAML: "):
        load_space(tmp_path / "bad.yaml", base)


def test_populations_change_only_what_training_allows(base):
    with pytest.raises(BadInput, match=r"x: flow\.hidden cannot change while a network is trained"):
        check_changeable(load_space({"flow": {"hidden": {"choice": [8, 16]}}}, base), "x")
    with pytest.raises(BadInput, match=r"x: flow\.lr is changed by factors in pbt, expected uniform or loguniform"):
        check_changeable(load_space({"flow": {"lr": {"choice": [0.1, 0.2]}}}, base), "x")
