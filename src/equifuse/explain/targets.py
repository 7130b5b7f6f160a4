"""Choose the number of each sample that is explained, and compute it from a model's raw outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.errors import ConvergenceWarning, InputError, UnknownNameError
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel
from equifuse.tasks import Task

Floats = NDArray[np.float64]
ByModality = dict[str, Floats]


def value_of(task: Task, value: str | None = None) -> str:
    """The name of a value of ``task``; None for its default.

    Raises:
        InputError: the task has no prediction of a single sample.
        UnknownNameError: a value the task does not have.
    """
    known = task.values
    if not known:
        raise InputError(f"there is nothing to explain in {task.name}: its outputs are compared, none stands alone")
    if value is not None and value not in known:
        raise UnknownNameError(f"value of {task.name}:", value, known)
    return value or known[0]


def explained(task: Task, outputs: Tensor, output: int | None = None) -> Tensor:
    """Which output of each sample is explained.

    Args:
        task: the task.
        outputs: ``(n, K)`` raw outputs, everything given that the samples have.
        output: number of the output; None for the one predicted (the largest) of classes and labels, and the only one
            of regression.

    Returns:
        int64 ``(n,)``.

    Raises:
        InputError: no such output, or several targets and none chosen.
    """
    count = outputs.shape[-1]
    if output is not None:
        if not 0 <= output < count:
            raise InputError(f"output must be from 0 to {count - 1}, got {output}")
        return outputs.new_full((len(outputs),), output, dtype=torch.int64)
    return task.explained_output(outputs)


def read(task: Task, value: str, outputs: Tensor, chosen: Tensor) -> Tensor:
    """The number that is explained, differentiable.

    Args:
        task: the task.
        value: ``"probability"`` (softmax of classes, sigmoid of labels), ``"log_probability"``, ``"logit"``, or
            ``"output"`` in the target's own units (a log-risk for survival).
        outputs: ``(n, ..., K)``.
        chosen: int64 ``(n,)``, which of the ``K``.

    Returns:
        ``(n, ...)``.
    """
    if value in ("probability", "log_probability"):
        outputs = task.log_probabilities(outputs)
    index = chosen.view(-1, *[1] * (outputs.dim() - 1)).expand(*outputs.shape[:-1], 1)
    picked = outputs.gather(-1, index).squeeze(-1)
    return picked.exp() if value == "probability" else picked


@contextmanager
def evaluating(model: FusionModel) -> Iterator[torch.device]:
    """A context in which the model is in evaluation mode and does not warn; yields its device."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with evaluation_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield device


def presence(model: FusionModel, batch: Batch) -> Tensor:
    """Bool ``(B, M)``: which sample has which modality of the model."""
    device = next(iter(batch.inputs.values())).device
    none, every = (torch.full((len(batch),), here, device=device) for here in (False, True))
    present = model.presence(batch.inputs, batch.present, lengths=batch.lengths) or {}
    return torch.stack([present.get(m, every) if m in batch.inputs else none for m in model.modalities], dim=1)


@torch.no_grad()
def outputs_of(model: FusionModel, task: Task, batches: Iterable[Batch]) -> tuple[Floats, NDArray[Any] | None]:
    """Raw outputs ``(n, K)`` of all batches in evaluation mode, and their targets.

    Raises:
        InputError: there is no batch.
    """
    with evaluating(model) as device:
        pairs = [(task.forward(model, batch.to(device)).prediction, batch.target) for batch in batches]
    if not pairs:
        raise InputError("there are no samples")
    return torch.cat([outputs for outputs, _ in pairs]).double().cpu().numpy(), joined_target([t for _, t in pairs])


def joined_target(targets: Sequence[Tensor | None]) -> NDArray[Any] | None:
    """The targets of all batches, None where one has none."""
    given = [target.cpu() for target in targets if target is not None]
    return torch.cat(given).numpy() if given and len(given) == len(targets) else None


def joined(pieces: Sequence[Mapping[str, Floats]]) -> ByModality:
    """The arrays of all batches by modality, concatenated."""
    return {m: np.concatenate([piece[m] for piece in pieces]) for m in pieces[0]} if pieces else {}


def plain(value: Any) -> float | None:
    """A number for JSON; None for NaN."""
    number = float(value)
    return number if np.isfinite(number) else None


def means(arrays: Mapping[str, Floats]) -> dict[str, float | None]:
    """The mean of each modality over the samples that have it (NaN elsewhere), None where no sample has."""
    return {m: plain(np.nanmean(x)) if np.isfinite(x).any() else None for m, x in arrays.items()}
