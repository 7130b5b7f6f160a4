import re
from html.parser import HTMLParser

import numpy as np
import pytest

from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.benchmark.summary import RankTable, Score, SetSummary, Summary
from equifuse.report.benchmark import score_table
from equifuse.report.leaderboard import as_good_as_best, benchmark_verdict, rank_cards
from equifuse.report.page import Card, Section, TextTable, render_markdown, render_page
from equifuse.report.tables import Strong
from tests.benchmark.conftest import SETTINGS

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Whether tags are closed in the order in which they were opened, and what the page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [given[name] for name in ("src", "srcset", "data") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(two_sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    given = BenchmarkConfig.from_dict(
        {
            "data": two_sets,
            "methods": ["deq", "gmf", "concat", "linear"],
            "seeds": 2,
            "trials": 1,
            "missing": [0.5, "without"],
            "protocols": ["clean", "loose"],
            "settings": {**SETTINGS, "epochs": 1},
        }
    )
    run_benchmark(given, out, progress=False, workers=0)
    return out / "report.html"


def test_the_page_is_whole_and_needs_no_network(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.loads == []
    assert text.count("<svg") >= 4
    assert len(set(checker.ids)) == len(checker.ids)
    assert {link.removeprefix("#") for link in checker.links} <= set(checker.ids)
    assert "<h2>Ranks" not in text  # of two data sets
    assert text.count("<script") == 1
    assert not re.search(r"(src|href)=.https?:|@import|url\(.?http", text)
    for words in (
        "Tests of every pair",
        "When modalities are missing",
        "Convergence",
        "not evidence",
        "benchmark.yaml",
        "torch 2",
    ):
        assert words in text


def test_tables_hold_the_same_in_markdown(page):
    text = (page.parent / "tables.md").read_text()
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert text.count("| first | accuracy |") == 3  # clean, loose, difference


def test_text_is_escaped_and_strong_cells_are_bold():
    section = Section("a < b", ["<script>alert(1)</script>"], tables=[TextTable(["x"], [[Strong("1 & 2")]])])
    page = render_page("t", [section])
    assert "<script>alert" not in page
    assert "<strong>1 &amp; 2</strong>" in page
    assert "| **1 & 2** |" in render_markdown("t", [section])


def test_markdown_leaves_out_what_is_nothing_but_figures():
    pictures = Section("Scores", cards=[Card("digits")])
    both = Section("Costs", cards=[Card("time"), Card("size", ["1 MB"])])
    assert render_markdown("t", [pictures, both]) == "# t\n\n## Costs\n\n### size\n\n1 MB\n"


def summary_of(scores, **options):
    """A summary of scores: data set -> method -> values by seed."""
    seeds = [str(i) for i in range(len(next(iter(next(iter(scores.values())).values()))))]
    found = {
        name: {m: Score(float(np.mean(v)), 0.01, dict(zip(seeds, v, strict=True))) for m, v in methods.items()}
        for name, methods in scores.items()
    }
    info = SetSummary("x", "classification", "f", {"test": 100}, {"a": 3})
    methods = list(next(iter(scores.values())))
    ranks = {m: float(i + 1) for i, m in enumerate(methods)}
    return Summary(
        metrics=dict.fromkeys(scores, "accuracy"),
        better=dict.fromkeys(scores, "max"),
        sets=dict.fromkeys(scores, info),
        methods=methods,
        seeds=len(seeds),
        scores={"clean": found},
        ranking=options.pop("ranking", RankTable(list(scores), ranks, first=dict.fromkeys(methods, 0))),
        pairs=[],
        conditions_by_set={},
        convergence={},
        costs={},
        tuned={},
        difference={},
        measures={},
        conditions=options.pop("conditions", {}),
        **options,
    )


GOOD, ALIKE, BAD = [0.95, 0.96, 0.94, 0.95, 0.96], [0.96, 0.94, 0.95, 0.96, 0.94], [0.91, 0.92, 0.90, 0.91, 0.92]


def test_a_verdict_says_what_cannot_be_told_apart_and_how_far_behind_a_linear_model_is():
    found = summary_of({"mine": {"late": GOOD, "deq": ALIKE, "linear": BAD}})
    assert as_good_as_best(found, "mine") == ["late", "deq"]
    (line,) = benchmark_verdict(found)
    assert line.startswith("On mine, late is best: accuracy 95.2 ± 1.0 %")
    assert "deq cannot be told apart" in line
    assert "a linear model is 4.0 points behind" in line


def test_a_linear_model_that_is_as_good_is_said_to_be():
    (line,) = benchmark_verdict(summary_of({"mine": {"late": GOOD, "linear": ALIKE}}))
    assert line.endswith("and a linear model is as good.")


def test_one_seed_tells_nothing_apart():
    found = summary_of({"mine": {"late": [0.95], "linear": [0.91]}})
    assert as_good_as_best(found, "mine") == ["late"]
    assert any("one seed" in line for line in benchmark_verdict(found))


def test_ranks_are_for_five_data_sets_and_more(tmp_path):
    few = {f"set {i}": {"late": GOOD, "deq": ALIKE} for i in range(4)}
    assert rank_cards(summary_of(few), tmp_path) == []
    assert "average rank" not in score_table(summary_of(few)).rows[-1]
    many = summary_of({**few, "set 4": {"late": GOOD, "deq": ALIKE}})
    assert len(rank_cards(many, tmp_path)) == 1
    assert score_table(many).rows[-1][0] == "average rank"
    assert benchmark_verdict(many)[0].startswith("Over 5 data sets, late ranks best")


def test_what_failed_and_what_is_left_without_is_in_the_verdict():
    conditions = {"without one": {"late": 0.95, "deq": 0.9}, "missing 0.5": {"late": 0.99, "deq": 0.98}}
    found = summary_of({"mine": {"late": GOOD, "deq": BAD}}, conditions=conditions, failures=["deq: it exploded"])
    said = " ".join(benchmark_verdict(found))
    assert "Without one modality, late keeps 95 % of its score, deq 90 %." in said
    assert "1 has no result" in said
