"""One modality absent at test."""

from __future__ import annotations

from typing import Any

from claim import CONTRASTS, Claim, Result, Study, TextTable, compare, overall, score_table, verdict_of

METHODS = ["gmf", "concat", "mean", "gmu", "self_attention", "bottleneck", "deq", "gmf+deq"]
DROPPED = {"label": "gmf, hidden in training", "fusion": "gmf", "modality_dropout": 0.3}


def run(study: Study) -> Result:
    """Train every method on complete samples and take one modality away at test."""
    summary = compare(study, [*METHODS, DROPPED])
    labels = summary["methods"]
    rows = [
        [condition, *(f"{100 * by[label]:.1f}" for label in labels)] for condition, by in summary["conditions"].items()
    ]
    kept = TextTable(["on test", *labels], rows, "Per cent of the intact score that is left, mean over the data sets.")
    found = [verdict_of("gmf", other, *_differences(summary, "gmf", other)) for other in METHODS if other != "gmf"]
    table = TextTable(CONTRASTS, [row for _, row in found], "Share of the score left without one modality.")
    return Result(overall([verdict for verdict, _ in found]), [score_table(summary), kept, table])


def _differences(summary: dict[str, Any], a: str, b: str) -> tuple[list[float], list[list[float]]]:
    found = summary["conditions_by_set"]["without one"]
    differences = [100 * (by[a] - by[b]) for by in found.values()]
    return differences, [[d] for d in differences]


CLAIM = Claim(
    "missing",
    "GMF loses little when a modality is absent, less than other fusions.",
    "Xiong et al. 2024, single-modality evaluation on VGGSound and others",
    "Eight data sets, trained on complete samples, each modality taken away in turn on test (also hidden "
    "with rate one half); the share of the intact score that is left, compared over the data sets.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
