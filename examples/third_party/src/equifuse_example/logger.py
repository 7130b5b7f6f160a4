"""A logger: the numbers of each epoch as lines of JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class Lines(Logger):
    """Writes to a file; any logger of Lightning's kind will do."""

    name, version = "lines", 0

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """They are in the run folder already."""


def lines(out: Path, options: Mapping[str, Any]) -> Logger:
    """The logger of a run folder, by what its options say."""
    return Lines(out / options.get("file", "lines.jsonl"))
