"""Matrices that are freed and asked for again at every step stay in the process."""

import os
import subprocess
import sys

import pytest

from cfgen_dist.training.memory import ENVIRONMENT

STEPS = """
import resource, sys, threading
import torch
from cfgen_dist.training.memory import keep_freed_memory

def faults():
    for _ in range(10):  # the first find no place among what was freed: alignment asks for a little more
        torch.ones(20_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "here":
    keep_freed_memory()
if sys.argv[1] == "worker":  # Ray Train runs in a thread
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
else:
    faults()
"""


@pytest.mark.heavy
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_matrices_are_not_fetched_page_by_page_again():
    faults = {}
    for where, environment in {"none": {}, "here": {}, "worker": ENVIRONMENT}.items():
        ran = subprocess.run(
            [sys.executable, "-c", STEPS, where],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        faults[where] = int(ran.stdout)
    assert faults["here"] < faults["none"] / 10
    assert faults["worker"] < faults["none"] / 10
