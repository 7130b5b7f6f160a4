"""Options that say what is what in a table, shared by the commands that read one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from equifuse.errors import InputError

Modalities = Annotated[
    list[str] | None,
    typer.Option(
        "--modality", help="For tables: name='g_*', the columns of a modality, or name=file.csv; may be repeated."
    ),
]
Targets = Annotated[list[str] | None, typer.Option("--target", help="For tables: target column; may be repeated.")]
IdColumn = Annotated[str | None, typer.Option("--id", help="For tables: column that names the samples.")]
SplitColumn = Annotated[str | None, typer.Option("--split-column", help="For tables: column of train, val, test.")]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="classification, multilabel, regression, retrieval, survival; default by the target."),
]


def source_options(
    modality: list[str] | None,
    target: list[str] | None,
    id_column: str | None,
    split_column: str | None,
    task: str | None,
) -> dict[str, Any]:
    """The options that were given, as :class:`equifuse.data.SourceOptions` names them.

    Raises:
        InputError: a modality that is not ``name=pattern``.
    """
    modalities = {}
    for setting in modality or []:
        name, equals, pattern = setting.partition("=")
        if not equals or not name or not pattern:
            raise InputError(f"expected --modality name=pattern, got {setting!r}")
        modalities[name] = pattern
    values = {"modalities": modalities, "target": target, "id": id_column, "split": split_column, "task": task}
    return {name: value for name, value in values.items() if value}
