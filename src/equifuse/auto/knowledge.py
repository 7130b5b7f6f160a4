"""What the modalities know of the target, beside a search: measured on the training part within a share of its time."""

from __future__ import annotations

import math

from equifuse.data import MultimodalDataset
from equifuse.data.options import SourceOptions
from equifuse.errors import EquifuseError
from equifuse.information import Interactions, interactions
from equifuse.runs.config import TrainConfig

# Of the time limit; seconds, of a search that is given less or more; seconds that it takes at least.
_SHARE, _MOST, _LEAST = 0.05, 30.0, 3.0
# Cells of all modalities that one core looks at in a second, and samples below which nothing is said.
_CELLS, _SAMPLES, _FEWEST = 50_000, 1000, 100


def knowledge(config: TrainConfig, dataset: MultimodalDataset, limit: float | None) -> Interactions | str:
    """What the modalities of the training part know of the target, or a sentence that says why it is not measured.

    >>> from equifuse.auto.knowledge import knowledge
    >>> knowledge(TrainConfig("digits"), ef.datasets.load("digits"), limit=10)
    'What the modalities know was not measured: the time limit is too short; equifuse interactions does it.'

    Args:
        config: of the search.
        dataset: its data.
        limit: seconds of the search, of which it takes a twentieth at most; None for no limit.
    """
    said = "What the modalities know was not measured: {}; equifuse interactions does it."
    seconds = min(_MOST, _SHARE * (math.inf if limit is None else limit))
    width = sum(math.prod(shape) for shape in dataset.shapes.values())
    samples = min(_SAMPLES, int(seconds * _CELLS / width))
    if seconds < _LEAST:
        return said.format("the time limit is too short")
    if samples < _FEWEST:
        return said.format(f"{width:,} features are too many for it")
    group = SourceOptions.of(config.source).group
    try:
        return interactions(dataset, most_samples=samples, group=group, parts=("train",), seconds=seconds)
    except EquifuseError as error:
        return f"What the modalities know was not measured: {str(error).removesuffix('.')}."
