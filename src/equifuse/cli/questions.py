"""``equifuse score-answers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def score_answers(
    answers: Annotated[Path, typer.Argument(help="Submission: JSON list of question_id and answer.")],
    annotations: Annotated[list[Path], typer.Argument(help="JSON files of annotations, as VQA v2 has them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure answers to questions about images as the official evaluation of VQA v2 does (rule of 2021)."""
    from equifuse.data.questions import read_annotations, read_answers, score
    from equifuse.report.tables import scores_table, show

    known: dict[str, Any] = {}
    for file in annotations:
        known |= read_annotations(file)
    found = score(read_answers(answers), known)
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    show(scores_table(found))
