"""How a model is selected: on a validation part, or, as much published code does it, on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from equifuse.errors import InputError

if TYPE_CHECKING:
    from equifuse.data import MultimodalDataset, Split

CLEAN, LOOSE = "clean", "loose"
PROTOCOLS = {
    CLEAN: "selected on validation, measured on test once",
    LOOSE: "trained on train and validation, the best epoch chosen on the test part it is measured on",
}


def arrange(dataset: MultimodalDataset, protocol: str) -> MultimodalDataset:
    """The data set as a protocol uses it.

    Args:
        dataset: the data set.
        protocol: ``"clean"`` leaves it as it is. ``"loose"`` adds the validation part to the training part, and
            selects on test: what the codes behind many published figures do, and nobody should.

    Raises:
        InputError: ``"loose"`` for data that stay on disk.
    """
    if protocol == CLEAN:
        return dataset
    train, val, test = (dataset.splits[part] for part in ("train", "val", "test"))
    if train.on_disk or val.on_disk:
        raise InputError("the loose protocol joins train and validation in memory; these data are too large for it")
    return replace(dataset, splits={"train": _join(train, val), "val": test, "test": test})


def _join(a: Split, b: Split) -> Split:
    # Only here: the names of the protocols are asked for where NumPy is not needed.
    import numpy as np  # noqa: PLC0415

    from equifuse.data import Split  # noqa: PLC0415
    from equifuse.data.lazy import in_memory  # noqa: PLC0415

    def both(x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
        return {m: np.concatenate([x[m], y[m]]) for m in x}

    def masks(split: Split) -> dict[str, Any]:
        every = np.ones(len(split), dtype=np.bool_)
        return {m: split.present.get(m, every) for m in {**a.present, **b.present}}

    def steps(split: Split) -> dict[str, Any]:
        return {
            m: split.lengths.get(m, np.full(len(split), split.inputs[m].shape[1])) for m in {**a.lengths, **b.lengths}
        }

    def weights(split: Split) -> Any:
        return np.ones(len(split)) if split.weight is None else split.weight

    return Split(
        both({m: in_memory(x) for m, x in a.inputs.items()}, {m: in_memory(x) for m, x in b.inputs.items()}),
        both(masks(a), masks(b)),
        None if a.target is None or b.target is None else np.concatenate([a.target, b.target]),
        None if a.ids is None or b.ids is None else np.concatenate([a.ids, b.ids]),
        both(steps(a), steps(b)),
        None if a.weight is b.weight is None else np.concatenate([weights(a), weights(b)]),
    )
