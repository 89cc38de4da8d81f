"""Searches whose trials share work: several workers a trial, populations, and what they do when a part of them ends.

All of them need Ray, whose trials, groups and schedulers they ask about, and all are slow.
"""

from pathlib import Path

import pytest
import torch
from conftest import TINY

from cfgen_dist import tune
from cfgen_dist.config import load_config
from cfgen_dist.training.stream import held_out_stream
from cfgen_dist.tuning import search, strategies
from cfgen_dist.tuning.trial import best_autoencoder, read_reports, trial_config
from cfgen_dist.tuning.trials import best_trial, read_trials
from data_loaders import open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.timeout(1800)  # a process takes a minute to start where others are at work
SPACE = {
    "autoencoder": {"lr": {"loguniform": [1e-4, 1e-2]}},
    "flow": {"lr": {"loguniform": [1e-4, 1e-2]}},
    "sampling": {"guidance": {"choice": [1]}, "steps": {"choice": [3]}},
}


@pytest.mark.slow
def test_trials_of_two_workers(ray_local, tiny_atlas, tmp_path):
    """Both processes train as one; Tune counts and clears them, so one trial after the other finds room."""
    config = load_config(overrides=TINY)
    tune(tiny_atlas, tmp_path / "run", 4, config=config, space=SPACE, ray="local", workers=2)
    for stage in ("autoencoder", "flow"):
        records = read_trials(tmp_path / "run" / stage)
        assert len(records) == 2
        assert records[0]["status"] == "done", records[0].get("why")
        assert all(record["status"] != "failed" for record in records)


@pytest.mark.slow
def test_population_based_training(ray_local, tiny_atlas, tmp_path):
    """Members copy others' weights and settings; no donor's checkpoint is gone, and the best weights are kept."""
    space = {
        "autoencoder": {"lr": {"loguniform": [1e-5, 1e-2]}},
        "flow": {"lr": {"loguniform": [1e-5, 1e-2]}},
        "sampling": {"guidance": {"choice": [1]}, "steps": {"choice": [3]}},
    }
    # float32: `held_out` computes in it
    overrides = {"autoencoder.max_epochs": 17, "autoencoder.patience": 100, "precision": "32-true"}
    config = load_config(overrides=TINY | overrides)
    tune(tiny_atlas, tmp_path / "run", 8, config=config, space=space, scheduler="pbt", ray="local")
    records = read_trials(tmp_path / "run" / "autoencoder")
    assert [record["status"] for record in records] == ["done"] * 4, [record.get("why") for record in records]
    reports = [read_reports(Path(record["folder"])) for record in records]
    assert any("copied_from" in report for each in reports for report in each)
    assert all(each[-1]["step"] == 17 for each in reports)
    assert load_config(tmp_path / "run" / "best.yaml")
    best = best_trial(tmp_path / "run" / "autoencoder")
    assert held_out(tiny_atlas, tmp_path / "run", best["values"]) == pytest.approx(best["objective"], abs=1e-3)


@torch.inference_mode()
def held_out(atlas, run, values):
    """Nats per validation cell of the weights that a search has kept."""
    atlas, config = open_atlas(atlas), trial_config(run, "autoencoder", values)
    autoencoder, total = best_autoencoder(run, atlas, config), 0.0
    rows = atlas.rows(split="val")
    for batch in held_out_stream(atlas, 64, rows=rows, labels=[]):
        batch = batch.to("cpu")
        total += autoencoder(autoencoder.dense(batch.counts), batch.size_factor).item() * len(batch)
    return total / len(rows)


@pytest.mark.slow
def test_members_that_end_are_not_waited_for(ray_local, tmp_path):
    """Four members on two cores; one ends before the first comparison, when the others have come to it and wait."""
    from ray import tune as ray_tune

    search._settle_environment()

    def member(config):
        import time
        from pathlib import Path

        from ray import tune

        checkpoint, start = tune.get_checkpoint(), 0
        if checkpoint is not None:
            with checkpoint.as_directory() as saved:
                start = int((Path(saved) / "step").read_text())
        number = tune.get_context().get_trial_id()[-1]  # the rest of the config may come from another member
        (tmp := Path(config["folder"]) / number).mkdir(exist_ok=True)
        for step in range(start + 1, 13):
            time.sleep(0.3 if number == "3" else 0.05)
            if (number, step) == ("3", 4):
                break
            (tmp / "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(tmp) if step % 5 == 0 else None
            tune.report({"step": step, "objective": config["values"]["x"]}, checkpoint=saved)
        tune.report({"objective": 1.0})

    scheduler = strategies.Population(
        time_attr="step", metric="objective", mode="min", perturbation_interval=5, synch=True, require_attrs=False,
        hyperparam_mutations={"values": {"x": ray_tune.uniform(0, 1)}},
    )  # fmt: skip
    space = {"folder": str(tmp_path), "values": {"x": ray_tune.grid_search([0.2, 0.4, 0.6, 0.8])}}
    results = ray_tune.Tuner(
        ray_tune.with_resources(member, {"CPU": 1}), param_space=space,
        tune_config=ray_tune.TuneConfig(scheduler=scheduler),
        run_config=ray_tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0),
    ).fit()  # fmt: skip
    assert results.num_errors == 0
    assert [(tmp_path / str(number) / "step").read_text() for number in range(4)] == ["12", "12", "12", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raises", "is killed"])
def test_a_worker_of_several(ray_local, tiny_atlas, tmp_path, monkeypatch, fault):
    """What rank 1 raised is what is recorded, not that rank 0 misses it; a lost process costs no trial."""

    def faulty(config, storage):
        from cfgen_dist.tuning import on_ray

        class Rank(on_ray._Rank):
            def work(self, arguments, address, number, workers, config, storage):
                import os
                import signal
                from pathlib import Path

                from cfgen_dist.training.callbacks import SeedEveryStep
                from cfgen_dist.tuning import on_ray

                def fail(self, trainer, module, batch, batch_idx):
                    marker = Path(config["run"]) / "killed"
                    if trainer.global_step == 3 and fault == "raises":
                        raise ZeroDivisionError("by zero")
                    if trainer.global_step == 3 and not marker.exists():
                        marker.touch()
                        os.kill(os.getpid(), signal.SIGKILL)

                SeedEveryStep.on_train_batch_start = fail
                on_ray._Rank.work(self, arguments, address, number, workers, config, storage)

        on_ray._Rank = Rank
        on_ray.run_trial(config, storage)

    monkeypatch.setattr(search, "run_trial", faulty)
    arguments = {"config": load_config(overrides=TINY), "space": SPACE, "ray": "local", "workers": 2}
    if fault == "raises":
        with pytest.raises(BadInput, match=r"no trial has succeeded; the first says: ZeroDivisionError: by zero$"):
            tune(tiny_atlas, tmp_path / "run", 2, **arguments)
    else:
        tune(tiny_atlas, tmp_path / "run", 2, **arguments)
        assert (tmp_path / "run" / "killed").exists()
        assert [record["status"] for record in read_trials(tmp_path / "run" / "autoencoder")] == ["done"]
