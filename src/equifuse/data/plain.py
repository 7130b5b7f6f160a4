"""Data sets as JSON and plain arrays, to hand between processes of which one may have been taken over: no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy import LazyArray, in_memory
from equifuse.errors import DataError
from equifuse.files import parse_errors

_JSON, _ARRAYS = "values.json", "arrays.npz"
# Kinds of NumPy that are stored without pickle as they are; whole seconds and the like as what they count.
_PLAIN = "biufcUS"
_SPECIAL = ("array", "objects", "moments", "tuple", "mapping", "class")


def write_plain(folder: Path, value: Any) -> None:
    """Write a value: numbers, text, arrays, and lists, mappings and the data classes of this room made of them."""
    arrays: dict[str, NDArray[Any]] = {}
    encoded = _encode(value, arrays)
    np.savez(folder / _ARRAYS, **arrays)  # type: ignore[arg-type]
    (folder / _JSON).write_text(json.dumps(encoded), encoding="utf-8")


def read_plain(folder: Path) -> Any:
    """What :func:`write_plain` has written; it only ever makes values, whatever the files hold.

    Raises:
        DataError: they are damaged.
    """
    with parse_errors(folder, "plain arrays"):
        with np.load(folder / _ARRAYS, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return _decode(json.loads((folder / _JSON).read_text(encoding="utf-8")), arrays)


def _classes() -> dict[str, type[Any]]:
    from equifuse.data.columns import Column  # noqa: PLC0415 - these rooms read by it
    from equifuse.data.contents import Pixels, Regions, Tokens, Words  # noqa: PLC0415
    from equifuse.data.dataset import MultimodalDataset, Split  # noqa: PLC0415
    from equifuse.data.external import Rows, Wanted  # noqa: PLC0415
    from equifuse.data.ids import Matched  # noqa: PLC0415
    from equifuse.data.options import SourceOptions  # noqa: PLC0415
    from equifuse.data.sources import SourceFile  # noqa: PLC0415

    known = (
        Column,
        Pixels,
        Regions,
        Tokens,
        Words,
        MultimodalDataset,
        Split,
        Rows,
        Wanted,
        Matched,
        SourceOptions,
        SourceFile,
    )
    return {kind.__name__: kind for kind in known}


def _encode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:  # noqa: PLR0911 - one for each kind
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, LazyArray):
        value = in_memory(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return {"objects": [_encode(entry, arrays) for entry in value.tolist()]}
        if value.dtype.kind == "M":
            return {"moments": _encode(value.astype(np.int64), arrays), "unit": str(value.dtype)}
        if value.dtype.kind not in _PLAIN:
            raise DataError(f"values of type {value.dtype} cannot be handed over")
        key = f"a{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, Mapping):
        return {"mapping": [[_encode(key, arrays), _encode(entry, arrays)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(entry, arrays) for entry in value]}
    if isinstance(value, Sequence):
        return [_encode(entry, arrays) for entry in value]
    name = type(value).__name__
    if name not in _classes():
        raise DataError(f"a value of type {name} cannot be handed over")
    return {"class": name, "fields": {f.name: _encode(getattr(value, f.name), arrays) for f in fields(value)}}


def _decode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:  # noqa: PLR0911 - one for each kind
    if isinstance(value, list):
        return [_decode(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    special = next(key for key in _SPECIAL if key in value)
    inner = value[special]
    if special == "array":
        return arrays[inner]
    if special == "objects":
        made = np.empty(len(inner), dtype=object)
        made[:] = [_decode(entry, arrays) for entry in inner]
        return made
    if special == "moments":
        return _decode(inner, arrays).astype(value["unit"])
    if special == "tuple":
        return tuple(_decode(entry, arrays) for entry in inner)
    if special == "mapping":
        return {_decode(key, arrays): _decode(entry, arrays) for key, entry in inner}
    return _classes()[inner](**{name: _decode(entry, arrays) for name, entry in value["fields"].items()})
