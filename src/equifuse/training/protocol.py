"""How a model is selected: on a validation part, or, as much published code does it, on the test part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from equifuse.errors import InputError

if TYPE_CHECKING:
    from equifuse.data import MultimodalDataset

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
    return replace(dataset, splits={"train": train.joined(val), "val": test, "test": test})
