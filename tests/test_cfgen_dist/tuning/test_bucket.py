"""A search in a bucket: what it leaves, and what a resumed one does again."""

import json

import pytest
import yaml
from conftest import TINY

from cfgen_dist.config import load_config
from cfgen_dist.tuning.run import tune
from data_loaders.errors import BadInput

SPACE = {
    "autoencoder": {"lr": {"loguniform": [1e-4, 1e-2]}},
    "flow": {"lr": {"loguniform": [1e-4, 1e-2]}},
    "sampling": {"guidance": {"choice": [1, 2]}, "steps": {"choice": [3]}},
}


@pytest.mark.slow
@pytest.mark.heavy
def test_a_search_in_a_bucket(ray_local, tiny_atlas, bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bucket.put_folder("atlas.zarr", tiny_atlas)
    bucket.put("space.yaml", yaml.safe_dump(SPACE).encode())
    atlas, out = f"{bucket.url}/atlas.zarr", f"{bucket.url}/search"
    options = {"config": load_config(overrides=TINY), "space": f"{bucket.url}/space.yaml", "ray": "local"}
    options |= {"objective": "w2", "concurrent": 2}
    best = tune(atlas, out, 4, **options)
    assert load_config(f"{out}/best.yaml") == best
    keys = set(bucket.keys("search/"))
    for name in ("tune.json", "trials.csv", "sampling.csv", "report.html", "sampling.json", "latents.zarr/zarr.json"):
        assert f"search/{name}" in keys
    for stage in ("autoencoder", "flow"):
        for number in range(2):
            facts = json.loads(bucket.read(f"search/{stage}/{number:04d}/result.json"))
            assert facts["status"] in ("done", "stopped"), facts
            assert f"search/{stage}/{number:04d}/reports.jsonl" in keys
        kept = [key for key in keys if key.startswith(f"search/{stage}/") and key.endswith("weights.safetensors")]
        assert len(kept) == 1, "those of the best alone"
    assert not [key for key in bucket.keys("") if "saved" in key or key.endswith(".lock") or ".parts" in key]
    assert list(tmp_path.iterdir()) == [], "nothing here"

    lost = f"search/flow/{1:04d}/result.json"
    before = {key: bucket.read(key) for key in keys if key.endswith("result.json") and key != lost}
    bucket.client.delete_object(Bucket=bucket.name, Key=lost)
    for name in ("best.yaml", "sampling.json"):
        bucket.client.delete_object(Bucket=bucket.name, Key=f"search/{name}")
    with pytest.raises(BadInput, match="holds a search already"):
        tune(atlas, out, 4, **options)
    tune(atlas, out, 4, resume=True, **options)
    assert {key: bucket.read(key) for key in before} == before, "what is done is not done again"
    assert set(bucket.keys("search/")) >= {lost, "search/best.yaml", "search/sampling.json"}


def test_a_population_is_refused(bucket, tiny_atlas):
    with pytest.raises(BadInput, match=r"s3://.*/search: members of a population take checkpoints over"):
        tune(tiny_atlas, f"{bucket.url}/search", 4, scheduler="pbt")
