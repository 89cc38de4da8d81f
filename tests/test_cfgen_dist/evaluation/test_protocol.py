"""Figures of the protocol `paper` are called what they are, on the terminal, in JSON and in the report."""

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.protocol import meaning_of, name_figures, said, title_of
from cfgen_dist.evaluation.verdict import sentences

ROWS = {metric.key: metric for metric in catalogue.METRICS}


def test_what_is_computed_otherwise_has_another_name():
    assert title_of(ROWS["mmd"], "paper") == "Linear-time MMD, uncentred"
    assert title_of(ROWS["mmd_all"], "paper") == "Linear-time MMD over all cells, uncentred"
    assert title_of(ROWS["w2_all"], "paper") == "W2 over all cells, uncentred"
    assert title_of(ROWS["knn_f1"], "paper") == "10-NN F1 inside single types, uncentred"
    assert "may be negative" in meaning_of(ROWS["mmd"], "paper")
    for metric in catalogue.METRICS:
        assert title_of(metric, "centred") == metric.title
        same = metric.scorer.needs not in ("points", "components")
        assert (title_of(metric, "paper") == metric.title) == same, "structure and counts are the same measures"
        assert metric.scorer.paper is None or not same, "what has another function has another name"


def test_no_two_figures_share_a_name():
    titles = [title_of(metric, protocol) for metric in catalogue.METRICS for protocol in ("centred", "paper")]
    both = [metric.title for metric in catalogue.METRICS if metric.scorer.needs not in ("points", "components")]
    assert len(set(titles)) == 2 * len(catalogue.METRICS) - len(both)


def test_the_verdict_uses_the_names():
    value = {"generated": {"mean": 1.0, "sd": 0.1}, "floor": {"mean": 0.5, "sd": 0.1}, "real": None, "verdict": "off"}
    metrics = {"mmd": dict(value)}
    name_figures(metrics, "paper")
    assert "Linear-time MMD, uncentred 1.00 (0.500)" in sentences(metrics)[1]
    assert said("centred") == []
    assert said("paper")[0].startswith("Protocol paper: ")
