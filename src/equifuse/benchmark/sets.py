"""The data sets of a benchmark, as its tables call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equifuse import datasets
from equifuse.benchmark.config import BenchmarkConfig
from equifuse.registry import TASKS


@dataclass(frozen=True)
class SetInfo:
    """A data set as tables call it.

    Attributes:
        name: unique among the benchmark's.
        source: name or path.
        task: its task.
        fingerprint: of its values, split by the first seed.
        rows: samples of train, val and test.
        modalities: modality name -> width.
        outputs: names of the outputs, of a task that is made of several.
    """

    name: str
    source: str
    task: str
    fingerprint: str
    rows: dict[str, int]
    modalities: dict[str, int]
    outputs: tuple[str, ...] | None = None


def short_names(sources: Sequence[str]) -> dict[str, str]:
    """A short name for each data set: the file's, or the whole path where two files share it."""
    stems = [Path(source).stem for source in sources]
    return {(stem if stems.count(stem) == 1 else source): source for stem, source in zip(stems, sources, strict=True)}


def look_at(name: str, source: str, config: BenchmarkConfig) -> SetInfo:
    """Load a data set, and keep what tables say of it.

    Raises:
        DataError: it cannot be used.
        UnknownNameError: there is none of that name.
    """
    fraction = config.settings.get("val_fraction", 0.2)
    options = config.settings.get("source")
    dataset = datasets.load(source, val_fraction=fraction, seed=config.seeds[0], source=options)
    rows = {part: len(split) for part, split in dataset.splits.items()}
    outputs = dataset.classes if TASKS.get(dataset.task).targets.mixes else None
    return SetInfo(name, source, dataset.task, dataset.fingerprint(), rows, dict(dataset.dims), outputs)
