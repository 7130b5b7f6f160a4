"""Results as dataclasses that are stored as JSON and can be read by key, as the stored file can."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self

# Metadata of a field that a stored record leaves out where it is None.
OPTIONAL: dict[str, Any] = {"left out where None": True}
_KEY = "key"


def stored_as(key: str) -> dict[str, Any]:
    """Metadata of a field that a stored record has under another name."""
    return {_KEY: key}


class Record(Mapping[str, Any]):
    """Base of dataclasses that hold a result: fields for code, plain values by key for files.

    ``record.name`` is the field as it is typed; ``record["name"]`` is the plain value that the JSON file holds under
    that key. A record equals the dictionary that its file is read as.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, eq=False)
        ... class Timing(Record):
        ...     seconds: float
        ...     steps: tuple[int, ...] = ()
        >>> timing = Timing(1.5, (3, 4))
        >>> timing.steps, timing["steps"], timing == {"seconds": 1.5, "steps": [3, 4]}
        ((3, 4), [3, 4], True)
    """

    def _stored(self) -> dict[str, str]:
        """Key -> name of the field, of those that are stored."""
        return {
            entry.metadata.get(_KEY, entry.name): entry.name
            for entry in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if not (entry.metadata == OPTIONAL and getattr(self, entry.name) is None)
        }

    def __getitem__(self, key: str) -> Any:
        return plain(getattr(self, self._stored()[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored())

    def __len__(self) -> int:
        return len(self._stored())

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON has them: lists for tuples, None for NaN."""
        return dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A record from stored values; keys that it does not know are left out.

        Raises:
            TypeError: a value without which there is no such record is missing.
        """
        known = {entry.metadata.get(_KEY, entry.name): entry.name for entry in fields(cls)}  # type: ignore[arg-type]
        return cls(**{known[key]: value for key, value in values.items() if key in known})


def plain(value: Any) -> Any:
    """A value as JSON has it: dictionaries with text keys, lists, and None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    return None if isinstance(value, float) and math.isnan(value) else value
