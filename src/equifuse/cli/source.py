"""Options that say what is what in a table, shared by the commands that read one."""

from __future__ import annotations

from typing import Any

from equifuse.errors import InputError


def source_options(
    modality: list[str] | None,
    target: list[str] | None,
    id_column: str | None,
    split_column: str | None,
    task: str | None,
) -> dict[str, Any]:
    """The options that were given, as :class:`equifuse.datasets.SourceOptions` names them.

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
