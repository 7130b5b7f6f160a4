"""A recorded graph as a file: of ``torch.export`` here, of ONNX in its own module."""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equifuse.errors import DataError
from equifuse.export.graph import Examples

# What the description is called inside of a file.
DESCRIPTION = "equifuse.json"


class Program(ABC):
    """A graph in the form in which it is stored; called with examples it gives the outputs by name."""

    @abstractmethod
    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        """Run it: output name -> ``(B, …)``."""

    @abstractmethod
    def write(self, path: Path, description: dict[str, Any]) -> None:
        """Store it, the description inside."""


class TorchProgram(Program):
    """A program of ``torch.export``.

    Args:
        recorded: the graph.
    """

    def __init__(self, recorded: torch.export.ExportedProgram) -> None:
        self._recorded = recorded
        self._module = recorded.module()

    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        """Run it."""
        with torch.no_grad():
            found: dict[str, Tensor] = self._module(*examples.arguments())
        return found

    def write(self, path: Path, description: dict[str, Any]) -> None:
        """Store it; the description is the extra file ``equifuse.json``."""
        # PyTorch ends the process where its own writer meets a full disk.
        whole = io.BytesIO()
        torch.export.save(self._recorded, whole, extra_files={DESCRIPTION: json.dumps(description)})
        path.write_bytes(whole.getbuffer())


def read_description(path: Path) -> dict[str, Any]:
    """The description inside of a ``.pt2`` file; nothing else of it is read.

    Raises:
        DataError: it is none, or was not written by :func:`equifuse.export.export_model`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/{DESCRIPTION}"))
            found: dict[str, Any] = json.loads(archive.read(name))
    except (zipfile.BadZipFile, StopIteration, ValueError) as error:
        raise DataError(f"{path} is not an exported model: {error!r}") from None
    return found
