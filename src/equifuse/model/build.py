"""Build models from names and numbers, as the command line does."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from equifuse.data.contents import Content
from equifuse.encoders import (
    ENCODERS,
    GUIDED,
    POOLINGS,
    MLPEncoder,
    Preparation,
    Preprocessed,
    SequenceEncoder,
    Standardize,
    looks_at,
)
from equifuse.encoders.preparation import restore_steps
from equifuse.encoders.sequence import AverageSteps
from equifuse.encoders.tuned import FINETUNED, LORA, TUNED, TunedEncoder
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion import FittedFusion, Fusion, make_fusion
from equifuse.fusion import fusion_options as options_of
from equifuse.model.contents import content_encoder
from equifuse.model.heads import LinearHead, MLPHead
from equifuse.model.module import FusionModel
from equifuse.model.skip import SkipConnection
from equifuse.model.unimodal import UnimodalHeads
from equifuse.options import AUTO, settled
from equifuse.registry import FUSIONS, TASKS

if TYPE_CHECKING:
    from equifuse.tasks import Task

# The encoder of sequences for methods that train none.
_AVERAGE = "average"
# Rate in hidden layers, unless the options say otherwise.
_DROPOUT = 0.3
_OPTIONS = ("hidden", "dropout", "input_dropout", "lora_rank", "gradient_checkpointing")
# Of them, those of pretrained models that are trained.
_TUNING = {"lora_rank": (LORA,), "gradient_checkpointing": (LORA, FINETUNED)}


def build_model(
    shapes: Mapping[str, tuple[int, ...] | int],
    task: str,
    n_outputs: int,
    *,
    fusion: str = "deq",
    fusion_options: Mapping[str, Any] | None = None,
    encoder: str | Mapping[str, str] = "auto",
    encoder_options: Mapping[str, Any] | None = None,
    sequences: Collection[str] = (),
    classes: tuple[str, ...] | None = None,
    head_dropout: float = 0.0,
    head_hidden: int | str = 0,
    clip: float | None = 5.0,
    prepare: Mapping[str, Sequence[Preparation | Mapping[str, Any]]] | None = None,
    unimodal_heads: bool = False,
    skip: bool = False,
    contents: Mapping[str, Content] | None = None,
    pretrained: Mapping[str, Mapping[str, Any]] | None = None,
) -> FusionModel:
    """Build a model from names and numbers, as the command line does; it can be stored and loaded without any code.

    Every modality is standardised (fit it with :meth:`FusionModel.fit_preprocessing`) and encoded; or prepared by
    steps that were fitted before, and encoded.

    >>> model = ef.build_model({"text": 300, "image": 512}, "classification", 3, fusion="gmf")
    >>> model({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).prediction.shape
    torch.Size([8, 3])

    Args:
        shapes: modality name -> shape of one sample (or its width).
        task: "classification", "multilabel", "regression", "retrieval" or "survival".
        n_outputs: number of outputs ``K``: classes, labels, targets, 1 for survival, or the embedding width.
        fusion: name of a fusion; default "deq".
        fusion_options: its options.
        encoder: "mlp" or "identity" (on flattened features), a pooling of :class:`~equifuse.encoders.SequenceEncoder`
            (on shapes ``(T, l)``, and on words), "cnn" on pictures, "guided", "film" or "coattention" on pictures and
            regions (``"guided:NAME"`` where it is not plain which other modality they look at), or "auto" (default):
            "attention" for the ``sequences``, "gru" for words, "cnn" for pictures, else "mlp". One for all modalities,
            or a mapping from modality name to encoder ("auto" for the others). Pretrained models of pictures, and of
            texts that were read for them, are "efficientnet" and "wordllama", or "pretrained:FOLDER" (frozen),
            "finetuned:FOLDER" and "lora:FOLDER".
        encoder_options: ``hidden`` (widths, default [128]; the last one is the output width, also for sequences),
            ``dropout`` (default 0.3) and ``input_dropout`` (default 0); of pretrained models that are trained
            ``lora_rank`` (default 8) and ``gradient_checkpointing`` (default False).
        sequences: modalities whose samples are padded sequences.
        classes: names of the outputs.
        head_dropout: dropout rate before the head, in [0, 1); default 0.
        head_hidden: width of the head's hidden layer, with the encoders' ``dropout``; default 0, an affine map alone.
            "auto" is that of the encoders after an ``additive`` fusion of several modalities, else 0.
        clip: bound on standardised inputs, or None; default 5.
        prepare: modality name -> fitted steps, see :func:`equifuse.encoders.fit_steps`, instead of standardising.
        unimodal_heads: whether each modality also predicts alone from its encoder's output, which is added to what the
            head makes of the fused representation; a fusion that decides by such predictions already gets no others,
            and neither does a modality whose encoder looks at another one.
        skip: whether a :class:`~equifuse.model.SkipConnection` leads around the fusion.
        contents: modality name -> what its numbers stand for, where they are words, pixels or regions of images.
        pretrained: modality name -> structure of its pretrained model, as a stored model has it, whose weights are
            loaded afterwards.

    Returns:
        The model, with fresh weights.

    Raises:
        UnknownNameError: an unknown fusion, encoder, task, modality or option.
        InputError: a value is out of range, or an encoder does not fit a modality's shape.
    """
    given = {name: (shape,) if isinstance(shape, int) else tuple(shape) for name, shape in shapes.items()}
    options = dict(encoder_options or {})
    chosen = dict.fromkeys(given, encoder) if isinstance(encoder, str) else dict.fromkeys(given, "auto") | dict(encoder)
    prepared = {name: _restored(steps) for name, steps in (prepare or {}).items()}
    stand_for = dict(contents or {})
    for name in (*chosen, *sequences, *prepared, *stand_for):
        if name not in given:
            raise UnknownNameError("modality", name, given)
    _check_outputs(task, n_outputs, classes)
    for option in options:
        if option not in _OPTIONS:
            raise UnknownNameError("option of an encoder:", option, _OPTIONS)
    if issubclass(FUSIONS.get(fusion), FittedFusion):
        chosen = {name: _unencoded(fusion, kind, name in sequences) for name, kind in chosen.items()}
    kind = TASKS.get(task)
    own = kind.own_encoders(given, _widths(options)[-1]) if kind.own_model else {}
    encoders: dict[str, nn.Module | None] = {}
    dims: dict[str, int] = {}
    for name, shape in given.items():
        content, steps = stand_for.get(name), prepared.get(name)
        made: tuple[nn.Module, int]
        if name in own:
            made = own[name], _widths(options)[-1]
        elif content is None:
            made = _encoder(name, shape, chosen[name], options, name in sequences, clip, steps)
        else:
            described = (pretrained or {}).get(name)
            made = content_encoder(name, shape, content, chosen[name], options, tuple(given), described)
        encoders[name], dims[name] = made
    backbones = _pretrained(encoders, options)
    module = make_fusion(fusion, dims, **_for_task(fusion, fusion_options, kind.predicts_quantities, n_outputs))
    if module.tasks is not None and task not in module.tasks:
        raise InputError(f"fusion {fusion!r} is for {', '.join(module.tasks)}, the task is {task}")
    adds = module.additive and len(dims) > 1
    inner = settled(adds * _widths(options)[-1] if head_hidden == AUTO else head_hidden)
    head = _head(kind, module, n_outputs, head_dropout, inner, options.get("dropout", _DROPOUT))
    alone = {name: width for name, width in dims.items() if looks_at(encoders[name]) is None}
    speaks = unimodal_heads and alone and not module.decides and not kind.own_model
    unimodal = UnimodalHeads(alone, n_outputs) if speaks else None
    around = SkipConnection(dims, module.out_dim) if skip else None
    model = FusionModel(encoders, module, head, task=task, classes=classes, unimodal=unimodal, skip=around)
    model.shapes, model.contents = given, stand_for
    model.recipe = {
        "n_outputs": n_outputs,
        "encoder": encoder if isinstance(encoder, str) else dict(encoder),
        "encoder_options": options,
        "sequences": list(sequences),
        "head_dropout": head_dropout,
        "clip": clip,
    }
    parts = {"unimodal_heads": unimodal is not None, "skip": around is not None, "head_hidden": inner}
    model.recipe |= {name: value for name, value in parts.items() if value}
    if backbones:
        model.recipe["pretrained"] = backbones
    if prepared:
        model.recipe["prepare"] = {name: [step.stored() for step in steps] for name, steps in prepared.items()}
    return model


def _pretrained(encoders: Mapping[str, nn.Module | None], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The structures of pretrained models among encoders, by modality; options of training one need one that is."""
    found = {name: part for name, part in encoders.items() if isinstance(part, TunedEncoder)}
    for option, modes in _TUNING.items():
        if options.get(option) and not any(part.mode in modes for part in found.values()):
            raise InputError(f"{option} is for encoders such as {' or '.join(f'{mode}:FOLDER' for mode in modes)}")
    return {name: part.backbone.described() for name, part in found.items()}


def _check_outputs(task: str, n_outputs: int, classes: tuple[str, ...] | None) -> None:
    """Refuse a number of outputs that is none, or not that of the names."""
    kind = TASKS.get(task)
    if n_outputs < 1:
        raise InputError(f"n_outputs must be at least 1, got {n_outputs}")
    # Of an embedding they are those of the samples, which some metrics count; its outputs have no names.
    if classes is not None and not kind.embeds and len(classes) != n_outputs:
        raise InputError(f"classes names {len(classes)} outputs, n_outputs is {n_outputs}")


def _head(
    kind: type[Task], fusion: Fusion, n_outputs: int, dropout: float, hidden: int, hidden_dropout: float
) -> nn.Module:
    """The task's own head, one with a hidden layer or without, or nothing after a fusion that predicts."""
    if fusion.decides and kind.own_model:
        raise InputError(
            f"fusion {fusion.name!r} decides by what each modality says alone; {kind.name} needs one that fuses"
        )
    if fusion.decides and fusion.out_dim != n_outputs:
        raise InputError(
            f"fusion {fusion.name!r} has outputs={fusion.out_dim}, the task {n_outputs}; leave the option out"
        )
    if fusion.decides:
        return nn.Identity()
    if kind.own_model:
        return kind.own_head(fusion.out_dim, n_outputs)
    if hidden:
        return MLPHead(fusion.out_dim, n_outputs, hidden, dropout, hidden_dropout)
    return LinearHead(fusion.out_dim, n_outputs, dropout)


def _widths(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Widths of an encoder's layers, of its options."""
    hidden = options.get("hidden", (128,))
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def _unencoded(fusion: str, encoder: str, padded: bool) -> str:
    """The encoder of a method that nothing trains encoders for: none, of sequences the mean of their steps."""
    if encoder not in ("auto", "identity"):
        raise InputError(f"fusion {fusion!r} takes features as they are, without encoder {encoder!r}")
    return _AVERAGE if padded else "identity"


def _restored(steps: Sequence[Preparation | Mapping[str, Any]]) -> list[Preparation]:
    """Steps as they are, or as they were described in a stored model."""
    fitted = [step for step in steps if isinstance(step, Preparation)]
    return fitted or restore_steps([step for step in steps if not isinstance(step, Preparation)])


def _for_task(fusion: str, options: Mapping[str, Any] | None, quantities: bool, n_outputs: int) -> dict[str, Any]:
    """A fusion's options, with those that suit the task, and the number of outputs where it or its backend decides."""
    given = {**FUSIONS.get(fusion).suited(quantities), **(options or {})}
    known, backend = options_of(fusion), given.get("backend")
    if "outputs" in known:
        given.setdefault("outputs", n_outputs)
    if "backend" in known and isinstance(backend, str):
        given["backend_options"] = _for_task(backend, given.get("backend_options"), quantities, n_outputs)
    return given


def _encoder(
    name: str,
    shape: tuple[int, ...],
    kind: str,
    options: Mapping[str, Any],
    padded: bool,
    clip: float | None,
    steps: Sequence[Preparation] | None,
) -> tuple[nn.Module, int]:
    """The encoder of a modality, with its preparation, and the width of its output."""
    if kind.partition(":")[0] not in (*ENCODERS, _AVERAGE):
        raise UnknownNameError("encoder", kind, ENCODERS)
    if kind == "cnn" or kind in GUIDED:
        raise InputError(f"encoder {kind!r} is for pictures and regions of images, not for {name!r}")
    if kind.partition(":")[0] in TUNED:
        raise InputError(f"encoder {kind!r} is for columns of pictures and texts, not for {name!r}")
    if kind == "auto":
        kind = "attention" if padded else "mlp"
    hidden = _widths(options)
    if kind in POOLINGS:
        if len(shape) != 2:
            raise InputError(f"encoder {kind!r} needs sequences (T, l); modality {name!r} has shape {shape}")
        front, width = _front(steps, shape[1:], clip)
        body = SequenceEncoder(width, hidden[-1], kind, dropout=options.get("dropout", _DROPOUT))
        return Preprocessed(*front, body), hidden[-1]
    if kind == _AVERAGE:
        front, width = _front(steps, shape[1:], clip)
        return Preprocessed(*front, AverageSteps()), width
    if padded:
        raise InputError(f"encoder {kind!r} cannot tell padding from data in {name!r}; use {', '.join(POOLINGS)}")
    front, width = _front(steps, shape, clip)
    if kind == "identity":
        return Preprocessed(*front, nn.Flatten(1)), width
    own = {option: value for option, value in options.items() if option not in _TUNING}
    return Preprocessed(*front, MLPEncoder(width, **{**own, "hidden": hidden})), hidden[-1]


def _front(
    steps: Sequence[Preparation] | None, shape: tuple[int, ...], clip: float | None
) -> tuple[list[nn.Module], int]:
    """The layers before an encoder, and the number of features that they give; steps get flat features."""
    width = math.prod(shape)
    if not steps:
        return [Standardize(shape, clip)], width
    flat = [nn.Flatten(1)] if len(shape) > 1 else []
    return [*flat, *steps], steps[-1].width
