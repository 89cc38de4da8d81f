"""Checkpoints are refused when a bit of them is not the one that was written."""

import pytest
import torch

from cfgen_dist.training.checkpoints import WholeCheckpoints, read_checkpoint
from data_loaders.errors import BadInput

FORM = {"epoch": 0, "callbacks": {}, "optimizer_states": [{}], "lr_schedulers": [], "loops": {}}


@pytest.mark.heavy
def test_a_flipped_bit_of_a_checkpoint_is_refused(tmp_path):
    path, files = tmp_path / "last.ckpt", WholeCheckpoints()
    for step in range(2):
        files.save_checkpoint(FORM | {"global_step": step, "state_dict": {"w": torch.arange(1000.0)}}, path)
    assert read_checkpoint(path)["global_step"] == 1
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0, 502.0).numpy().tobytes())] ^= 1  # which torch itself does not see
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["global_step"] == 1
    for read in (read_checkpoint, files.load_checkpoint):
        with pytest.raises(BadInput, match=r"last.ckpt is damaged \(its SHA-256 .*without that file the stage starts"):
            read(path)
