"""The page and the figures."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from evaluation_data import generated, pbmc68k
from PIL import Image

from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.metrics.catalogue import metrics_of
from cfgen_dist.evaluation.plots import embed, loss_of, read_curves, read_run
from cfgen_dist.evaluation.report import in_words
from cfgen_dist.evaluation.verdict import number
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

LOGS = {
    "autoencoder": "epoch,step,train_nll,val_nll,lr\n0,10,120.5,,0.1\n0,20,110.0,,\n0,20,,115.0,\n"
    "1,40,100.0,,\n1,40,,101.0,\n",
    "flow": "train_loss,epoch,step\n1.5,0,10\n1.2,0,20\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for stage, text in LOGS.items():
        (folder / stage).mkdir()
        (folder / stage / "metrics.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """An evaluation with everything: control, training curves, a type whose name is dangerous in HTML."""
    out = tmp_path_factory.mktemp("evaluation") / "report"
    real = pbmc68k()
    real.obs["cell_type"] = real.obs["cell_type"].cat.rename_categories({"Dendritic": "<b>DC & co</b>"})
    made = generated(real)
    made.uns["generation"] = json.dumps({"plan": {"n_cells": 420}, "model": {"held_out_nll": 123.25}})
    evaluate(real, made, out, control=True, sets=1, floor_sets=2, embedding="pca", run=run)
    return out


class Page(HTMLParser):
    """Collects what a page links to, its open tags and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_stands_alone(page, report):
    assert page.open == []
    figures = sorted(path.read_bytes() for path in report.glob("*.png"))
    assert len(figures) == 7
    prefix = "data:image/png;base64,"
    assert all(link.startswith(prefix) for link in page.links)
    assert sorted(base64.b64decode(link[len(prefix) :]) for link in page.links) == figures
    assert not re.search(r"https?://|<script|@import", (report / "report.html").read_text())


def test_the_page_holds_every_number_with_its_floor_and_control(page, report):
    text = " ".join(page.words)
    result = json.loads((report / "metrics.json").read_text())
    for metric in metrics_of():
        row = result["metrics"][metric.key]
        assert metric.title in text
        assert metric.meaning in text
        for column in ("generated", "floor", "control"):
            assert number(row[column]["mean"]) in text
    for note in result["notes"]:
        assert note in text
    assert result["verdict"][0] in text
    for word in ("Protocol", "centred", "scanpy", "Seed", "held_out_nll 123.25", "n_cells 420"):
        assert word in text
    assert "log1p, all 765 genes, 30 principal components" in " ".join(text.split())


def test_names_of_types_are_text_not_markup(page, report):
    assert "<b>DC & co</b>" in " ".join(page.words)
    assert "&lt;b&gt;DC &amp; co&lt;/b&gt;" in (report / "report.html").read_text()


def test_figures_are_drawn(report):
    for path in report.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_paper_protocol_is_said(tmp_path):
    real = pbmc68k()
    evaluate(real, generated(real), tmp_path / "report", protocol="paper", sets=1, floor_sets=1, embedding="pca")
    text = (tmp_path / "report" / "report.html").read_text()
    assert "Protocol: paper." in text
    assert "without subtracting the mean" in text
    for title in ("Linear-time MMD, uncentred", "W2, uncentred", "10-NN F1 inside single types, uncentred"):
        assert f"<b>{title}</b>" in text
    assert ">Linear MMD<" not in text, "that is another figure"


@pytest.mark.slow  # umap compiles itself for half a minute
def test_umap_is_fitted_on_real_cells_alone():
    rng = np.random.default_rng(0)
    real, one, other = rng.normal(size=(60, 5)), rng.normal(size=(30, 5)), rng.normal(3, 1, size=(20, 5))
    first, placed = embed(real, one, "umap", 0)
    second, _ = embed(real, other, "umap", 0)
    np.testing.assert_array_equal(first, second)
    assert placed.shape == (30, 2)


def test_pca_embedding_is_the_first_two_components():
    real, made = np.arange(12.0).reshape(4, 3), np.ones((2, 1))
    assert embed(real, made, "pca", 0)[0].tolist() == real[:, :2].tolist()
    assert embed(made, made, "pca", 0)[1].tolist() == [[1, 0], [1, 0]]


def test_training_logs_are_read_as_they_are(run):
    curves = read_run(run)
    assert curves["autoencoder"]["train_nll"] == ([10, 20, 40], [120.5, 110.0, 100.0])
    assert curves["autoencoder"]["val_nll"] == ([20, 40], [115.0, 101.0])
    assert loss_of(curves["autoencoder"]) == "nll"
    assert loss_of(curves["flow"]) == "loss"
    assert loss_of({}) == "loss"


def test_training_logs_that_are_none(tmp_path):
    with pytest.raises(BadInput, match=r"metrics.csv: no training log; expected a run with autoencoder/metrics.csv"):
        read_curves(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="no column 'step'; expected a training log"):
        read_curves(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe step")
    with pytest.raises(BadInput, match="not UTF-8 text; expected a training log"):
        read_curves(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("step,train_nll\n1,abc\n")
    with pytest.raises(BadInput, match="line 2 is damaged"):
        read_curves(tmp_path / "metrics.csv")


def test_provenance_in_words():
    value = {"atlas": {"path": "a.zarr", "n": 3}, "codes": list(range(9)), "weights": [1.5, 2], "nll": 631.197021}
    assert in_words(value) == "atlas (path a.zarr, n 3), codes (9 values), weights 1.5; 2, nll 631.197"


@pytest.mark.heavy
def test_a_map_leaves_the_threads_of_torch_alone():
    """Numba's threads would set them, and with them the last digits of what is trained later."""
    before = torch.get_num_threads()
    points = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    try:
        torch.set_num_threads(1)
        embed(points, points, "umap", 0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
