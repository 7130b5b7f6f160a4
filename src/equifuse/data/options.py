"""What a reader has to be told about a source that does not say it itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from equifuse.data.dataset import TASKS
from equifuse.errors import DataError, InputError, UnknownNameError


@dataclass(frozen=True)
class SourceOptions:
    """Which columns of a table are what.

    Args:
        modalities: modality name -> pattern of its columns with ``*`` and ``?`` (several, with ``,`` in between), or
            the file that holds it, joined on the id (``expression.parquet``, or ``expression.parquet::g_*`` for some
            of its columns).
        target: target columns; one for classes or a quantity, several for labels or quantities, and for survival the
            time and the event.
        id: column that names the samples.
        split: column that says train, val or test.
        task: the task; told by the target's values if None.

    Raises:
        InputError: a value of the wrong kind.
        UnknownNameError: an unknown task.
    """

    modalities: dict[str, str] = field(default_factory=dict)
    target: tuple[str, ...] = ()
    id: str | None = None
    split: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        target: Any = self.target
        object.__setattr__(self, "target", (target,) if isinstance(target, str) else tuple(target or ()))
        if not isinstance(self.modalities, Mapping) or not all(
            isinstance(key, str) and isinstance(value, str) for key, value in self.modalities.items()
        ):
            raise InputError(f"modalities must map names to column patterns, got {self.modalities!r}")
        for name in ("id", "split", "task"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} must be a name, got {getattr(self, name)!r}")
        if self.task is not None and self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)

    @classmethod
    def of(cls, values: SourceOptions | Mapping[str, Any] | None) -> SourceOptions:
        """From plain values.

        Raises:
            UnknownNameError: a key that is none.
        """
        if isinstance(values, SourceOptions):
            return values
        known = [f.name for f in fields(cls)]
        for key in values or {}:
            if key not in known:
                raise UnknownNameError("source option", str(key), known)
        return cls(**(values or {}))

    def given(self) -> dict[str, Any]:
        """The options that say something, as plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["target"] = list(self.target)
        return {name: value for name, value in values.items() if value}

    def refuse(self, where: str, *allowed: str) -> None:
        """Refuse what a format has no use for.

        Raises:
            InputError: an option other than ``allowed`` was given.
        """
        for name in self.given():
            if name not in allowed:
                raise InputError(f"{where} says itself what is what; it takes no option {name!r}")


def matching(columns: Sequence[str], pattern: str, where: str) -> list[str]:
    """The columns that a pattern names, in their order.

    Raises:
        DataError: there is none.
    """
    wanted = [part.strip() for part in pattern.split(",") if part.strip()]
    found = [c for c in columns if any(fnmatchcase(c, part) for part in wanted)]
    if not found:
        some = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
        raise DataError(f"{where} has no column like {pattern!r}; it has {some}")
    return found
