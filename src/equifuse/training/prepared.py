"""Preparation once before training, and not again in every batch of every epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.data import Split
from equifuse.data.lazy import Features, in_memory
from equifuse.encoders import TunedEncoder
from equifuse.encoders.preparation import fixed_layers
from equifuse.encoders.preprocessed import Preprocessed
from equifuse.model import FusionModel
from equifuse.training.options import TrainingOptions

# Rows that are prepared at a time.
_ROWS = 4096
# What is prepared may be so many times as large as it was, or have so many bytes.
_GROWTH, _BYTES = 4, 2**28
# Rows that a frozen pretrained model sees between two looks at the clock, and seconds between two lines about it.
_PIECE, _TELL_AFTER = 64, 5.0


@contextmanager
def prepared_once(model: FusionModel, splits: Sequence[Split]) -> Iterator[list[Split]]:
    """The splits as the model's fitted steps make them, and for as long the model without these steps.

    Steps that learn along stay in the model, with those after them; so do those of an encoder of one's own, and of a
    modality that would become too large. Splits on disk stay as they are, all of them; but what a frozen pretrained
    model says of a modality takes its place, wherever that is.

    >>> from equifuse.training.prepared import prepared_once
    >>> data = ef.datasets.load("digits")
    >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="concat").eval()
    >>> x = {m: torch.from_numpy(array[:8]) for m, array in data.splits["train"].inputs.items()}
    >>> model.fit_preprocessing(x)
    >>> before = model(x).prediction
    >>> with prepared_once(model, [data.splits["train"]]) as (train,):
    ...     x = {m: torch.from_numpy(array[:8]) for m, array in train.inputs.items()}
    ...     torch.equal(model(x).prediction, before)
    True

    Args:
        model: its preparation fitted.
        splits: such as the training and the validation part.
    """
    with _said_once(model, list(splits)) as said, _steps_once(model, said) as found:
        yield found


@contextmanager
def _said_once(model: FusionModel, splits: list[Split]) -> Iterator[list[Split]]:
    """The splits with what frozen pretrained models say of their modalities, and the model with these left out."""
    frozen = {
        m: encoder
        for m, encoder in model.encoders.items()
        if isinstance(encoder, TunedEncoder) and encoder.frozen and all(m in split.inputs for split in splits)
    }
    if not frozen:
        yield splits
        return
    for m, encoder in frozen.items():
        splits = [_said(encoder, split, m) for split in splits]
    shapes, model.shapes = model.shapes, {}
    for encoder in frozen.values():
        encoder.given = True
    try:
        yield splits
    finally:
        model.shapes = shapes
        for encoder in frozen.values():
            encoder.given = False


def _said(encoder: TunedEncoder, split: Split, m: str) -> Split:
    """A split with what a frozen model says of a modality; zeros where it is missing."""
    features, steps, mask = split.inputs[m], split.lengths.get(m), split.present.get(m)
    rows: NDArray[np.intp] = np.arange(len(features)) if mask is None else np.flatnonzero(mask)
    found = np.zeros((len(features), encoder.backbone.out_dim), dtype=np.float32)
    device = next(encoder.join.parameters()).device
    began = told = time.monotonic()
    for start in range(0, len(rows), _PIECE):
        some = rows[start : start + _PIECE]
        x = torch.from_numpy(np.asarray(features[some])).to(device)
        lengths = None if steps is None else torch.from_numpy(steps[some]).to(device)
        found[some] = encoder.features(x, lengths).cpu().numpy()
        now, done = time.monotonic(), start + len(some)
        if now - told > _TELL_AFTER:
            told, rate = now, done / (now - began)
            print(f"{m}: {done:,} of {len(rows):,} encoded, {rate:.1f} a second", file=sys.stderr, flush=True)
    lengths_left = {name: each for name, each in split.lengths.items() if name != m}
    return replace(split, inputs={**split.inputs, m: found}, lengths=lengths_left)


@contextmanager
def _steps_once(model: FusionModel, splits: Sequence[Split]) -> Iterator[list[Split]]:
    """The splits as fitted steps make them, and the model without these steps; on disk as they are."""
    if any(split.on_disk for split in splits):
        yield list(splits)
        return
    splits = [_with_presence(model, split) for split in splits]
    skipped: list[Preprocessed] = []
    for m, encoder in model.encoders.items():
        layers = fixed_layers(encoder) if isinstance(encoder, Preprocessed) else []
        if not layers or any(m not in split.inputs for split in splits):
            continue
        made = [_prepared(layers, split, m) for split in splits]
        if any(x is None for x in made):
            continue
        assert isinstance(encoder, Preprocessed)
        splits = [replace(s, inputs={**s.inputs, m: x}) for s, x in zip(splits, made, strict=True) if x is not None]
        encoder.skipped = len(layers)
        skipped.append(encoder)
    shapes, row_missing = model.shapes, model.row_missing
    # Both are about rows as they were.
    model.shapes, model.row_missing = {}, None
    try:
        yield list(splits)
    finally:
        model.shapes, model.row_missing = shapes, row_missing
        for encoder in skipped:
            encoder.skipped = 0


@contextmanager
def noisy(model: FusionModel, options: TrainingOptions) -> Iterator[None]:
    """Within, encoders get noise with their prepared features in training, if the options ask for it."""
    some = [encoder for encoder in model.encoders.values() if isinstance(encoder, Preprocessed)]
    for encoder in some:
        encoder.noise = options.feature_noise
    try:
        yield
    finally:
        for encoder in some:
            encoder.noise = 0.0


def _with_presence(model: FusionModel, split: Split) -> Split:
    """The split with all that the model knows of which row has which modality."""
    inputs = {m: torch.from_numpy(in_memory(x)) for m, x in split.inputs.items()}
    masks = {m: torch.from_numpy(mask) for m, mask in split.present.items()}
    lengths = {m: torch.from_numpy(steps) for m, steps in split.lengths.items()}
    found = model.presence(inputs, masks, lengths=lengths)
    return replace(split, present={m: mask.numpy() for m, mask in (found or {}).items()})


def _prepared(layers: Sequence[nn.Module], split: Split, m: str) -> Features | None:
    """A modality behind some layers; zeros where it is missing; None if that is too large."""
    x, mask = in_memory(split.inputs[m]), split.present.get(m)
    rows: NDArray[np.intp] = np.arange(len(x)) if mask is None else np.flatnonzero(mask)
    found: NDArray[np.floating] | None = None
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        made = _through(layers, torch.from_numpy(x[some])).numpy()
        if found is None:
            if len(x) * made[0].nbytes > max(_GROWTH * x.nbytes, _BYTES):
                return None
            found = np.zeros((len(x), *made.shape[1:]), dtype=made.dtype)
        found[some] = made
    return found


@torch.no_grad()
def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    device = next((buffer.device for layer in layers for buffer in layer.buffers()), x.device)
    x = x.to(device)
    for layer in layers:
        x = layer(x)
    return x.cpu().contiguous()
