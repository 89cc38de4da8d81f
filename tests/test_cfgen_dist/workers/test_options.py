"""Options that several functions share: spelled once, shown by each, and refused by the nearest name."""

import dataclasses
import inspect

import pytest

from cfgen_dist.generation.augment import augment
from cfgen_dist.generation.options import GenerationOptions, Sampling, SamplingOptions
from cfgen_dist.generation.run import generate
from cfgen_dist.translation.run import translate
from cfgen_dist.workers.options import Workers, WorkersOptions, build, takes

SHARED = {
    "guidance": None, "solver": None, "steps": None, "seed": 0, "shard_size": 4096, "device": "cpu", "resume": False,
    "ray": None, "workers": None, "unseen": None, "gpus_per_worker": None,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "keywords"), [(Sampling, SamplingOptions), (Workers, WorkersOptions)])
def test_dataclass_and_keywords_name_the_same_fields(kind, keywords):
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    assert fields == dict(keywords.__annotations__)
    assert not keywords.__required_keys__


@pytest.mark.parametrize(
    ("function", "more"),
    [
        (generate, {"labels": None, "plan": None, "size_factor": None}),
        (augment, {"balance": "cell_type", "temperature": 1.0, "size_factor": None}),
        (translate, {"label": None, "split": None, "where": None}),
    ],
)
def test_signatures_show_every_keyword_with_its_default(function, more):
    parameters = inspect.signature(function).parameters.values()
    shown = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert shown == SHARED | more


def test_unknown_keywords_are_refused_by_the_nearest_name(tmp_path):
    with pytest.raises(TypeError, match=r"^generate\(\) got an unexpected keyword argument 'sed', did you mean 'seed'"):
        generate(tmp_path, tmp_path / "x", 5, sed=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'size_factor'"):
        translate(tmp_path, tmp_path, tmp_path / "x", {}, size_factor="resample")


def test_each_dataclass_takes_its_own():
    @takes(GenerationOptions, Sampling, Workers)
    def work(first, *, second=2, **options):
        """Work."""
        return first, second, build(Sampling, options), build(Workers, options)

    assert work(1, seed=3, ray="local") == (1, 2, Sampling(seed=3), Workers("local"))
    assert work.__doc__ == "Work."
