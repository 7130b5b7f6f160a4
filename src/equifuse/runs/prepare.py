"""From a configuration and data to everything that a training begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from equifuse.data import MultimodalDataset, Split
from equifuse.data.dataset import Array
from equifuse.data.loaders import batches_of
from equifuse.errors import InputError
from equifuse.model import FusionModel, LinearHead, Piece, build_model
from equifuse.registry import TASKS
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import load_data, task_of
from equifuse.tasks import Task
from equifuse.training.balancing import Balancer
from equifuse.training.randomness import own_random_numbers
from equifuse.training.trainer import balancer_for

# Rows that preprocessing is fitted on at a time.
_PREPROCESSING_BATCH = 4096


@dataclass(frozen=True)
class Prepared:
    """What a training begins with.

    Attributes:
        dataset: the data.
        model: the untrained model.
        task: its task.
        balancer: of its modalities.
        class_weights: what the task weighs the classes with, or None.
    """

    dataset: MultimodalDataset
    model: FusionModel
    task: Task
    balancer: Balancer
    class_weights: list[float] | None


def prepare(config: TrainConfig, dataset: MultimodalDataset | None = None) -> Prepared:
    """Everything that a configuration asks for, before the first step.

    Args:
        config: the configuration.
        dataset: its data, where they have been read already.

    Raises:
        DataError: the data cannot be used.
        UnknownNameError: an unknown name among the options.
        InputError: an option that does not fit.
    """
    dataset = load_data(config) if dataset is None else dataset
    model = initial_model(config, dataset)
    weights = class_weights(config, dataset)
    task = task_of(model, config, weights)
    return Prepared(dataset, model, task, balancer_for(model, task, config), weights)


def initial_model(config: TrainConfig, dataset: MultimodalDataset) -> FusionModel:
    """The untrained model of a configuration: the same for the same seed, standardised on the training part only.

    >>> data = ef.datasets.load("digits")
    >>> model = initial_model(TrainConfig("digits", fusion="gmf"), data)
    >>> model.fusion.name
    'gmf'

    Raises:
        UnknownNameError: an option the fusion does not have.
        InputError: a value that does not fit.
    """
    train = dataset.splits["train"]
    kind = TASKS.get(dataset.task)
    outputs = config.embedding if kind.embeds else dataset.n_outputs
    model = model_for(config, train, dataset.task, outputs, dataset.classes)
    model.features = dict(dataset.features or {})
    start = None if train.target is None else kind.initial_output(torch.from_numpy(train.target))
    if start is not None:
        with torch.no_grad():
            for last in output_maps(model):
                last.bias.copy_(start)
    return model


def output_maps(model: FusionModel) -> list[nn.Linear]:
    """The affine maps that give a regression its units: all scaled and shifted alike, so are the predictions."""
    return [model.head.linear] if isinstance(model.head, LinearHead) else model.fusion.output_maps()


def model_for(
    config: TrainConfig, train: Split, task: str, n_outputs: int, classes: tuple[str, ...] | None = None
) -> FusionModel:
    """The untrained model of a configuration for a training part, standardised on it, in its precision.

    Raises:
        UnknownNameError: an option the fusion does not have.
        InputError: a value that does not fit.
    """
    with own_random_numbers(config.seed), _in_memory():
        model = build_model(
            {m: x.shape[1:] for m, x in train.inputs.items()},
            task,
            n_outputs,
            fusion=config.fusion,
            fusion_options=config.resolved_fusion_options(),
            encoder=config.encoder,
            encoder_options=_encoder_options(config),
            sequences=[m for m in train.inputs if m in train.lengths],
            classes=classes,
            head_dropout=config.head_dropout,
        )
    model.to(torch.from_numpy(train.inputs[model.modalities[0]][:0]).dtype)
    pieces = batches_of(train, _PREPROCESSING_BATCH)
    model.fit_preprocessing_in_pieces(Piece(b.inputs, b.present, b.lengths, b.weight) for b in pieces)
    return model


@contextmanager
def _in_memory() -> Iterator[None]:
    """One line where a model is larger than memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise InputError("the model does not fit into memory; use fewer or narrower layers") from None


def _encoder_options(config: TrainConfig) -> dict[str, Any]:
    return {"hidden": config.hidden, "dropout": config.dropout, "input_dropout": config.input_dropout}


def class_weights(config: TrainConfig, dataset: MultimodalDataset) -> list[float] | None:
    """What the configuration's class weights are on a data set, None for none.

    Raises:
        InputError: there are some, but no classes.
    """
    if config.class_weights is None:
        return None
    target = dataset.splits["train"].target
    if "class_weights" not in TASKS.options(dataset.task) or target is None:
        raise InputError(f"class_weights are for classification, the task is {dataset.task}")
    if isinstance(config.class_weights, list):
        return config.class_weights
    return balanced(target, dataset.n_outputs, dataset.splits["train"].weight)


def balanced(target: Array, n_classes: int, weight: Array | None = None) -> list[float]:
    """Factors of the classes, inversely to their frequency: ``n / (K n_k)``.

    Args:
        target: class indices ``(n,)``, each class at least once.
        n_classes: ``K``.
        weight: ``(n,)``, what each sample counts, or None.
    """
    counts = np.bincount(target.astype(np.int64), weights=weight, minlength=n_classes)
    return [float(w) for w in counts.sum() / (len(counts) * counts)]
