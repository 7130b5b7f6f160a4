"""From a configuration and data to everything that a training begins with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data import MultimodalDataset, Split
from equifuse.data.columns import Columns, kinds_of, names_of
from equifuse.data.contents import Content
from equifuse.data.dataset import Array
from equifuse.data.loaders import batches_of
from equifuse.encoders import Preparation, Standardize
from equifuse.encoders.preparation import Sample, complete_steps, fit_steps, parse_steps, unasked_steps
from equifuse.encoders.sequence import POOLINGS, valid_steps
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.fusion import FittedFusion
from equifuse.fusion.output_map import OutputMap
from equifuse.model import FusionModel, LinearHead, Piece, build_model
from equifuse.options import default_of
from equifuse.registry import TASKS
from equifuse.runs.checks import EVERY
from equifuse.runs.config import TrainConfig
from equifuse.runs.encoders import encoder_of
from equifuse.runs.folder import load_data, task_of
from equifuse.tasks import Task
from equifuse.training.balancing import Balancer
from equifuse.training.randomness import own_random_numbers
from equifuse.training.rules import resolved, said_of_sizes
from equifuse.training.trainer import balancer_for, facts_of

# Rows that preprocessing is fitted on at a time.
_PREPROCESSING_BATCH = 4096
# Values that the steps of a preparation see at once, and how many rows at least.
_FITTED_ON, _FITTED_ROWS = 2**24, 2000


@dataclass(frozen=True)
class Prepared:
    """What a training begins with.

    Attributes:
        dataset: the data.
        model: the untrained model.
        task: its task.
        balancer: of its modalities.
        class_weights: what the task weighs the classes with, or None.
        config: the configuration, with what the rules chose in the place of "auto".
    """

    dataset: MultimodalDataset
    model: FusionModel
    task: Task
    balancer: Balancer
    class_weights: list[float] | None
    config: TrainConfig


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
    config = resolved_for(config, dataset)
    model = initial_model(config, dataset)
    weights = class_weights(config, dataset)
    task = task_of(model, config, weights)
    return Prepared(dataset, model, task, balancer_for(model, task, config), weights, config)


def resolved_for(config: TrainConfig, dataset: MultimodalDataset) -> TrainConfig:
    """A configuration with what the rules choose on a data set in the place of "auto".

    >>> from equifuse.runs.prepare import resolved_for
    >>> resolved_for(TrainConfig("digits"), ef.datasets.load("digits")).modality_dropout["pixels"]
    0.3

    Raises:
        UnknownNameError: ``expect_missing`` names a modality that there is not.
    """
    return resolved(config, facts_of(dataset.splits["train"], dataset.modalities, TASKS.get(dataset.task)))


def sizes_of(config: TrainConfig, dataset: MultimodalDataset) -> str:
    """Which sizes the rules choose on a data set, and by what, in one line; empty where all are given.

    >>> from equifuse.runs.prepare import sizes_of
    >>> sizes_of(TrainConfig("digits", hidden="auto"), ef.datasets.load("digits"))
    'sizes by 1,079 training rows: width 128 (4 times the root of the rows)'
    """
    return said_of_sizes(config, facts_of(dataset.splits["train"], dataset.modalities, TASKS.get(dataset.task)))


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
    config = resolved_for(config, dataset)
    train = dataset.splits["train"]
    kind = TASKS.get(dataset.task)
    outputs = config.embedding if kind.embeds else dataset.n_outputs
    model = model_for(
        config,
        train,
        dataset.task,
        outputs,
        dataset.classes,
        features=dataset.features,
        columns=dataset.schema,
        contents=dataset.contents,
    )
    units = units_of(dataset)
    if units is not None:
        set_units(model, *map(torch.from_numpy, units))
    if len(train.labelled()) < len(train):
        _check_unlabelled(model, config)
    return model


def _check_unlabelled(model: FusionModel, config: TrainConfig) -> None:
    """Refuse to train on rows without a target where they teach nothing, or their targets would be looked at.

    Raises:
        InputError: the fusion reconstructs nothing, or something looks at the targets of all rows.
    """
    fusion = model.fusion
    if not fusion.loss_weights.get("reconstruction"):
        raise InputError(
            f"rows without a target teach fusion {config.fusion!r} nothing; use one that reconstructs, such as gmf, or "
            "leave out --use-unlabelled"
        )
    if fusion.target_loss_weights or config.balance is not None:
        raise InputError(
            "losses of single modalities and balancing look at the targets of all rows; leave out --use-unlabelled"
        )


def output_maps(model: FusionModel) -> list[OutputMap]:
    """The affine maps that give a regression its units: all scaled and shifted alike, so are the predictions."""
    return [model.head.linear] if isinstance(model.head, LinearHead) else model.fusion.output_maps()


def units_of(dataset: MultimodalDataset) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What outputs for a data set are counted in, by its training part; see :meth:`equifuse.tasks.Task.units`."""
    train = dataset.splits["train"].labelled()
    if train.target is None:
        return None
    return TASKS.get(dataset.task).units(train.target, dataset.classes, train.weight)


def set_units(model: FusionModel, scale: Tensor, shift: Tensor) -> None:
    """Let a model predict in ``scale`` from ``shift``, both ``(K,)``; what is fitted at once does so by itself."""
    model.spreads = scale.tolist()
    if isinstance(model.fusion, FittedFusion):
        return
    for last in output_maps(model):
        last.set_units(scale, shift)
    if model.unimodal is not None:
        model.unimodal.set_units(scale, shift)


def model_for(
    config: TrainConfig,
    train: Split,
    task: str,
    n_outputs: int,
    classes: tuple[str, ...] | None = None,
    *,
    features: Mapping[str, tuple[str, ...]] | None = None,
    columns: Mapping[str, Columns] | None = None,
    contents: Mapping[str, Content] | None = None,
) -> FusionModel:
    """The untrained model of a configuration for a training part, prepared on it, in its precision.

    Args:
        config: the configuration.
        train: the training part.
        task: name of the task.
        n_outputs: width of the output.
        classes: names of the outputs.
        features: modality name -> names of its features, where they are known.
        columns: modality name -> what the columns of its table hold, where they are not all numbers.
        contents: modality name -> what its numbers stand for, where they are no measurements.

    Raises:
        UnknownNameError: an option the fusion does not have.
        InputError: a value that does not fit.
    """
    steps = prepared_steps(config, train, task, features or {}, columns or {}, contents)
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
            head_hidden=config.head_hidden,
            prepare=steps,
            unimodal_heads=config.unimodal != "none",
            skip=config.skip,
            contents=contents,
        )
    if model.unimodal is not None and config.unimodal == "loss":
        model.unimodal.set_mix(1.0, 0.0)
    model.features, model.schema = dict(features or {}), dict(columns or {})
    model.row_missing = 1.0 if config.row_missing is None else config.row_missing
    model.to(torch.from_numpy(train.inputs[model.modalities[0]][:0]).dtype)
    if any(m not in model.contents for m in train.inputs):
        pieces = batches_of(train, _PREPROCESSING_BATCH)
        model.fit_preprocessing_in_pieces(Piece(b.inputs, b.present, b.lengths, b.weight) for b in pieces)
    return model


def prepared_steps(
    config: TrainConfig,
    train: Split,
    task: str,
    features: Mapping[str, tuple[str, ...]],
    columns: Mapping[str, Columns],
    contents: Mapping[str, Content] | None = None,
) -> dict[str, list[Preparation]]:
    """Each modality's steps, fitted on the training part; of the last, which standardises, only the width is set.

    Steps look at all rows at once, of large modalities at some, evenly spaced; what standardises at the end sees all of
    them, piece by piece, and learns here what outliers are.

    Raises:
        UnknownNameError: steps for a modality that there is not.
        InputError: steps that cannot be fitted; the message names the modality.
    """
    if TASKS.get(task).own_model:
        if config.prepare:
            raise InputError(f"{task} encodes its modalities as they are; leave out --prepare")
        return {}
    for name in config.prepare:
        if name not in (EVERY, *train.inputs):
            raise UnknownNameError("modality", name, train.inputs)
    found, contents = {}, contents or {}
    for m in train.inputs:
        if m in contents:
            if m in config.prepare:
                raise InputError(f"modality {m!r} is {contents[m].kind}, which no step prepares; leave {m}=... out")
            continue
        text = config.prepare.get(m, config.prepare.get(EVERY))
        try:
            by_step = encoder_of(config.encoder, m) in POOLINGS and train.inputs[m].ndim == 3
            sample = _sample(train, m, task, features.get(m, ()), columns.get(m, ()), by_step)
            asked = parse_steps(text) if text else unasked_steps(sample)
            steps = complete_steps(asked, sample.kinds, config.feature_missing)
            sample = fit_steps(steps[:-1], sample)
        except (InputError, DataError) as error:
            raise type(error)(f"modality {m!r}: {error}") from None
        last = steps[-1]
        assert isinstance(last, Standardize)
        last.begin(sample)
        found[m] = steps
    return found


def _sample(train: Split, m: str, task: str, names: tuple[str, ...], columns: Columns, by_step: bool = False) -> Sample:
    """The rows of a modality that its preparation is fitted on; the steps, where its encoder takes them one by one."""
    mask, features = train.present.get(m), train.inputs[m]
    here = np.ones(len(train), dtype=np.bool_) if mask is None else mask
    rows = np.flatnonzero(here if train.weight is None else here & (train.weight > 0))
    most = max(_FITTED_ROWS, _FITTED_ON // max(1, math.prod(features.shape[1:])))
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]
    x = torch.from_numpy(np.asarray(features[rows]))
    response, classes = (None, False)
    if train.target is not None:
        response, classes = TASKS.get(task).targets.response(train.target)
        response = None if response is None else response[rows]
    weight = None if train.weight is None else torch.from_numpy(train.weight[rows])
    lengths = train.lengths.get(m)
    if by_step or lengths is not None:  # a row is a step, and has its sequence's target and weight
        counted = valid_steps(x, None if lengths is None else torch.from_numpy(lengths[rows]))
        sequence = counted.nonzero()[:, 0]
        x, weight = x[counted], None if weight is None else weight[sequence]
        response = None if response is None else response[sequence.numpy()]
    x = x.flatten(1)
    kinds = kinds_of(columns)
    if columns:
        names = names_of(columns)
    return Sample(x, kinds, names if len(names) == x.shape[1] else (), response, classes, weight)


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
    if isinstance(config.hidden, str):
        raise InputError(f"hidden is {config.hidden!r}, and no rule has looked at the data; give widths")
    found = {"hidden": config.hidden, "dropout": config.dropout, "input_dropout": config.input_dropout}
    tuning = {"lora_rank": config.lora_rank, "gradient_checkpointing": config.gradient_checkpointing}
    return found | {name: value for name, value in tuning.items() if value != default_of(TrainConfig, name)}


def class_weights(config: TrainConfig, dataset: MultimodalDataset) -> list[float] | None:
    """What the configuration's class weights are on a data set, None for none.

    Raises:
        InputError: there are some, but no classes.
    """
    if config.target_weight is not None and "target_weight" not in TASKS.options(dataset.task):
        raise InputError(f"target_weight is for several targets of different kinds, the task is {dataset.task}")
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
