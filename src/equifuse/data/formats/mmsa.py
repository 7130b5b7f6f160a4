"""CMU-MOSI and CMU-MOSEI as the MMSA project distributes them: pickles, read for conversion only.

``aligned_50.pkl`` and ``unaligned_50.pkl`` hold, for each of ``train``, ``valid`` and ``test``, arrays ``text``
``(n, 50, 768)``, ``audio`` and ``vision`` ``(n, T, l)``, ``regression_labels`` (−3 to 3), ``classification_labels``,
``id``, and in the unaligned files ``audio_lengths`` and ``vision_lengths``; ``text_bert`` ``(n, 3, 50)`` has the text's
mask.

A pickle can run any code when it is read. So these are not read by :func:`equifuse.data.load` at all: ``equifuse
datasets convert`` turns them into a file that is data only, and admits nothing but numbers, text, plain containers and
NumPy arrays while it does so.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble_parts, typed_target
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.lazy import Features, Floats
from equifuse.errors import DataError, InputError
from equifuse.files import check_fits

_MODALITIES = ("text", "audio", "vision")
_PARTS = {"train": "train", "valid": "val", "test": "test"}
_LABELS = {"regression": "regression_labels", "classification": "classification_labels"}


# Stands for ``np.ndarray``, which could be called to claim memory.
_ARRAY = object()


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    """As NumPy pickles an array: an empty one, filled later. Any other shape would only be there to claim memory."""
    if kind is not _ARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array that is not NumPy's own")
    return np.ndarray((0,), dtype=np.int8)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(bytes(buffer), dtype=np.dtype(dtype)).reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 stores bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a scalar of an unknown kind")
    return np.frombuffer(raw, dtype=dtype)[0]


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    **{
        (f"numpy.{core}.{place}", name): function
        for core in ("core", "_core")
        for place, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    """Admits numbers, text, plain containers and NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of the file")


def _check_claims(content: bytes) -> None:
    """That a pickle asks for no more room than it can fill.

    The unpickler makes room for what a file announces before it reads it: for bytes, for a frame, and for as many
    remembered objects as the largest of their numbers says.

    Raises:
        ValueError: it asks for more, or is no pickle.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):  # which knows how long bytes may be
        if opcode.name not in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME"):
            continue
        most = len(content) if opcode.name == "FRAME" else count
        if cast(int, argument) > most:
            raise ValueError(f"{opcode.name} asks for {argument:,} where there cannot be more than {most:,}")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle holds, if that is plain data.

    Raises:
        DataError: the file is missing, damaged, or holds anything else, which is not run.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        check_fits(path, path.stat().st_size)
        content = path.read_bytes()
        _check_claims(content)
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a hostile or damaged pickle may fail in any way; it must only fail
        raise DataError(f"{path} is refused: {' '.join(str(error).split()) or type(error).__name__}") from None


def read_mmsa(path: Path, *, task: str = "regression") -> MultimodalDataset:
    """Read a file of the MMSA project.

    Padding is moved to the end of each sequence and its length noted; infinite or missing values become 0.

    Args:
        path: the pickle.
        task: ``"regression"`` (scores) or ``"classification"`` (negative, neutral, positive).

    Raises:
        DataError: the file is refused, or has another layout.
        InputError: another task.
    """
    if task not in _LABELS:
        raise InputError(f"task must be {' or '.join(_LABELS)} for a file of MMSA, got {task!r}")
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in _PARTS):
        raise DataError(f"{path} is no file of MMSA: expected a dictionary of {', '.join(_PARTS)}")
    splits = {ours: _split(path, part, content[part], task) for part, ours in _PARTS.items()}
    return assemble_parts(path.stem, splits, task)


def _split(path: Path, part: str, content: Mapping[str, Any], task: str) -> Split:
    inputs: dict[str, Features] = {}
    lengths: dict[str, NDArray[np.int64]] = {}
    for m in _MODALITIES:
        if m not in content:
            continue
        values = np.asarray(content[m])
        if values.ndim != 3 or values.dtype.kind not in "fiub":
            raise DataError(f"{path}: {part}/{m} must be (n, T, l) numbers, got {values.dtype} of shape {values.shape}")
        sequence = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        known = content.get(f"{m}_lengths")
        if known is None and m == "text" and "text_bert" in content:
            known = np.asarray(content["text_bert"])[:, 1].sum(axis=1)
        if known is None:
            inputs[m], lengths[m] = to_the_front(sequence)
        else:
            inputs[m], lengths[m] = sequence, np.clip(np.asarray(known, dtype=np.int64), 0, sequence.shape[1])
    if not inputs:
        raise DataError(f"{path}: {part} has none of {', '.join(_MODALITIES)}")
    if _LABELS[task] not in content:
        raise DataError(f"{path}: {part} has no {_LABELS[task]!r}")
    labels = np.asarray(content[_LABELS[task]])
    if labels.dtype.kind not in "fiub":
        raise DataError(f"{path}: {part}/{_LABELS[task]} holds {labels.dtype}, expected numbers")
    target = typed_target(labels, task)
    ids = content.get("id")
    return Split(inputs, {}, target, None if ids is None else np.asarray([str(i) for i in ids]), lengths)


def to_the_front(sequence: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Sequences ``(n, T, l)`` with all-zero steps at either end moved to the end, and their lengths without these."""
    filled = np.asarray(np.any(sequence != 0, axis=2))
    steps = sequence.shape[1]
    first = np.where(filled.any(axis=1), filled.argmax(axis=1), 0)
    last = np.where(filled.any(axis=1), steps - filled[:, ::-1].argmax(axis=1), 0)
    places = (np.arange(steps)[None] + first[:, None]) % max(steps, 1)
    return np.take_along_axis(sequence, places[:, :, None], axis=1), (last - first).astype(np.int64)
