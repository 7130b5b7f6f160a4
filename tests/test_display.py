"""How objects look in a console and in a notebook."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from equifuse._display import html_table, listed, short_text, shorten
from equifuse.benchmark.presets import preset
from equifuse.benchmark.sets import look_at
from equifuse.benchmark.summary import summarise
from equifuse.datasets import MultimodalDataset, Split
from equifuse.evaluation.robustness import Robustness, RobustnessReport, Spread
from equifuse.explain import Explanation
from equifuse.explain.shapley import Contributions
from equifuse.report.tables import TextTable
from equifuse.runs.metrics import RunMetrics
from equifuse.tasks import Evaluation

HOSTILE = "<script>alert('x')</script>\n\x1b[31m\"&"


class Reader(HTMLParser):
    """The tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        assert not attributes
        self.tags.append(tag)


def dataset(names=("a", "b"), name="set"):
    generator = np.random.default_rng(0)
    inputs = {m: generator.normal(size=(6, 2)).astype(np.float32) for m in names}
    split = Split(inputs, {names[0]: np.arange(6) > 2}, np.arange(6) % 2)
    return MultimodalDataset(name, dict.fromkeys(("train", "val", "test"), split), "classification")


def explanation(names):
    values = {m: np.linspace(0, 1, 500) for m in names}
    contributions = Contributions(values, None, np.zeros(500), np.ones(500))
    outputs, present = np.zeros((500, 2)), np.ones((500, len(names)), bool)
    chosen = np.zeros(500, np.int64)
    return Explanation("classification", "probability", outputs, chosen, ("no", "yes"), present, contributions)


def robustness(names):
    scores = dict.fromkeys(names, 0.5)
    spreads = {m: {"permuted": Spread(0.4, 0.1)} for m in names}
    return RobustnessReport("test", 1, "accuracy", {m: Robustness(0.9, scores, {}, spreads) for m in names})


OBJECTS = {
    "dataset": lambda names: dataset(names, names[0]),
    "split": lambda names: dataset(names).splits["test"],
    "explanation": explanation,
    "robustness": robustness,
    "metrics": lambda names: RunMetrics(
        test=dict.fromkeys(names), train_seconds=1.0, parameters=3, epochs=2, best_epoch=1
    ),
    "evaluation": lambda names: Evaluation(dict.fromkeys(names), torch.zeros(500, 3), undefined={names[0]: "no class"}),
    "table": lambda names: TextTable(["x"], [[m] for m in names], names[0]),
}


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
@pytest.mark.parametrize("names", [("a", "b"), (HOSTILE, "b"), tuple(f"m{i}" * 30 for i in range(80))])
def test_reprs_are_short_and_notebooks_get_escaped_tables(make, names):
    shown = make(names)
    html = shown._repr_html_()
    assert set(Reader(html).tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert "\x1b" not in html
    assert ("&lt;script&gt;" in html) == (names[0] == HOSTILE)
    if isinstance(shown, TextTable):
        return
    text = repr(shown)
    assert len(text.splitlines()) < 12
    assert max(map(len, text.splitlines())) <= 110
    assert "\x1b" not in text


def test_the_parts_of_a_data_set_are_counted():
    lines = repr(dataset()).splitlines()
    assert lines[0] == "MultimodalDataset 'set': classification, 2 classes"
    assert lines[2].split() == ["all", "rows", "6", "6", "6"]
    assert lines[3].split() == ["a", "2", "3", "3", "3"]


def test_a_benchmark_without_results_can_be_shown():
    config = preset("demo", seeds=1)
    summary = summarise(config, {"digits": look_at("digits", "digits", config)}, [])
    assert "gmf+deq" in repr(summary)
    Reader(summary._repr_html_())


def test_the_helpers():
    assert shorten("x" * 200, 20) == "x" * 18 + "…"
    assert listed("abc") == "a, b, c"
    assert short_text("t", []) == "t"
    assert len(short_text("t", [[i] for i in range(50)]).splitlines()) == 11
    assert "more rows" in html_table("", ["x"], [[i] for i in range(100)])
