"""What the modalities say alone, by the same model, and what fusion adds to that."""

from __future__ import annotations

from equifuse.report.tables import number, to_markdown
from equifuse.runs.metrics import RunMetrics


def alone_text(metrics: RunMetrics, headline: str) -> str:
    """A table of the modalities alone, and the fitted mix in a sentence, as Markdown; empty where there is neither.

    >>> from equifuse.report.alone import alone_text
    >>> from equifuse.runs.metrics import RunMetrics
    >>> run = RunMetrics(test={"mae": 0.5}, train_seconds=1.0, parameters=9, epochs=1, best_epoch=1, alone={"a": 0.75})
    >>> print(alone_text(run, "mae"))
    <BLANKLINE>
    | said by its own head alone, on test | mae |
    | --- | ---: |
    | a | 0.75 |
    <BLANKLINE>

    Args:
        metrics: of a run.
        headline: name of the metric.
    """
    parts = []
    if metrics.alone:
        rows = [[m, number(value, ".4g")] for m, value in metrics.alone.items()]
        parts.append(to_markdown(["said by its own head alone, on test", headline], rows).rstrip("\n") + "\n")
    if metrics.mix:
        parts.append(f"The {metrics.mix.sentence}.\n".replace("The fusion", "Fusion"))
    return "".join(f"\n{part}" for part in parts)
