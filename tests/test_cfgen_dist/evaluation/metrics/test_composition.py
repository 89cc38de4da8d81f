"""Composition: of the whole store, beside a floor as noisy as the store; all else is measured on matched cells."""

import numpy as np
import pytest
from evaluation_data import generated, pbmc68k

from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.composition import composition


def cells(counts, store=None):
    """What of a `CellSet` the composition needs."""
    return CellSet(None, None, None, np.array(counts), None, None, store=None if store is None else np.array(store))


def test_total_variation_of_the_stores():
    assert composition(cells([50, 30, 20]), cells([5, 3, 2])) == 0
    assert composition(cells([50, 30, 20]), cells([100, 0, 0])) == pytest.approx(0.5)
    assert composition(cells([50, 50]), cells([50, 50], store=[300, 100])) == pytest.approx(0.25)


@pytest.mark.heavy
def test_a_store_of_another_composition_is_off(monkeypatch):
    monkeypatch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 2)
    real = pbmc68k()
    options = {"sets": 2, "floor_sets": 3, "embedding": "pca", "workers": 1}
    made = generated(real, sets=4)
    alike = evaluate(real, made, **options)["metrics"]["composition"]
    assert alike["generated"]["mean"] == pytest.approx(0, abs=0.01)
    assert alike["verdict"] == "at"
    largest = (made.obs["cell_type"] == made.obs["cell_type"].value_counts().index[0]).to_numpy()
    half = made[~largest | (np.cumsum(largest) % 2 == 0)].copy()
    shifted = evaluate(real, half, **options)["metrics"]["composition"]
    assert shifted["generated"]["mean"] == pytest.approx(0.15, abs=0.05)
    assert shifted["verdict"] == "off"
    assert 0 < shifted["floor"]["mean"] < 0.06
