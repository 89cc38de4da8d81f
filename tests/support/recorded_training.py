"""Training on Ray with a record of the cells that every step saw, for tests that ask whether any was lost.

As a script it is a driver that a test can kill: `python recorded_training.py '{"atlas": ..., "out": ..., ...}'`.
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path


def recording(folder):
    """A `work_as_rank` that adds a line for every step to a file of its process in `folder`."""

    def work(settings):
        import time
        import uuid

        from cfgen_dist.training import on_ray, ranks, trainer

        start = ranks.on_main(lambda: f"{time.time():.3f}-{uuid.uuid4()}")  # the same on all ranks
        file = open(f"{folder}/{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115
        seed_step = trainer.SeedEveryStep.on_train_batch_start

        def record(self, trainer, module, batch, batch_idx):
            seed_step(self, trainer, module, batch, batch_idx)
            line = {
                "time": time.time(), "start": start, "stage": self.stage,
                "epoch": trainer.current_epoch, "step": trainer.global_step,
                "rank": ranks.rank(), "ranks": ranks.world_size(), "pid": os.getpid(), "rows": batch.rows.tolist(),
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
            time.sleep(0.04)  # steps of so small a model are over before a test can hit the one it wants

        trainer.SeedEveryStep.on_train_batch_start = record
        return on_ray.work_as_rank(settings)

    return work


def records(folder):
    """All lines so far."""
    lines = [line for path in Path(folder).glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cells_of_epochs(folder):
    """(stage, epoch) -> rows shown in it, counting only the steps that the final model has behind it.

    A start after a fault goes on from a checkpoint, so it replaces the steps from its first one on.
    """
    by_start = defaultdict(lambda: defaultdict(list))
    for record in records(folder):
        by_start[record["start"]][record["stage"]].append(record)
    kept = defaultdict(list)
    for start in sorted(by_start):
        for stage, lines in by_start[start].items():
            first = min(line["step"] for line in lines)
            kept[stage] = [line for line in kept[stage] if line["step"] < first] + lines
    epochs = defaultdict(list)
    for stage, lines in kept.items():
        for line in lines:
            epochs[stage, line["epoch"]] += line["rows"]
    return epochs


def train_recorded(atlas, out, folder, settings, ray_at="local", grow_after=None, **options):
    """`train(..., ray=ray_at)` with a record in `folder`, which all machines see; `grow_after` as in `on_ray`."""
    import ray

    import cfgen_dist.training.on_ray as on_ray
    from cfgen_dist.config import load_config
    from cfgen_dist.training.run import train

    if __name__ != "__main__":
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    if grow_after is not None:
        on_ray.GROW_AFTER = grow_after
    original, on_ray.work_as_rank = on_ray.work_as_rank, recording(folder)
    try:
        return train(atlas, out, load_config(overrides=settings), ray=ray_at, **options)
    finally:
        on_ray.work_as_rank = original


if __name__ == "__main__":
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("cfgen_dist").setLevel(logging.INFO)
    train_recorded(**json.loads(sys.argv[1]))
