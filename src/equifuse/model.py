"""Encoders + fusion + head as one module, and how it is stored."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from equifuse import hub
from equifuse.encoders import ENCODERS, POOLINGS, MLPEncoder, Preprocessed, SequenceEncoder, Standardize
from equifuse.encoders.preprocessed import encode, takes_lengths
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.files import atomic_folder, reading, write_text
from equifuse.fusion import Fusion, FusionOutput, make_fusion
from equifuse.fusion import fusion_options as options_of

_FORMAT = 1
_WEIGHTS, _CONFIG = "model.safetensors", "model.json"
# Numbers in a stored recipe that may be larger than the model has weights.
_ALWAYS_ADMITTED = 10_000
TASKS = ("classification", "multilabel", "regression", "retrieval", "survival")


class Piece(NamedTuple):
    """A part of a split: inputs, presence and lengths by modality, and the samples' weights, all as in a batch."""

    inputs: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    weight: Tensor | None = None


@dataclass
class ModelOutput:
    """What a :class:`FusionModel` returns.

    Attributes:
        prediction: ``(B, K)`` raw outputs: logits, regression values, or embeddings for retrieval.
        fusion: the fusion's output, with its regularisers and convergence.
        encoded: per modality given, its encoder's output ``(B, ..., l_m)``; what an absent sample's holds does not
            matter. {} where there is not one output for all modalities.
    """

    prediction: Tensor
    fusion: FusionOutput
    encoded: dict[str, Tensor] = field(default_factory=dict)


class LinearHead(nn.Module):
    """Dropout and one affine map ``(B, in_dim) -> (B, outputs)``, on features normalised to unit size.

    Args:
        in_dim: width of the fused representation.
        outputs: number of outputs ``K``.
        dropout: probability, in [0, 1).

    Raises:
        InputError: ``dropout`` is out of range.
    """

    kind: ClassVar[str] = "linear"

    def __init__(self, in_dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"head_dropout must be in [0, 1), got {dropout}")
        self.norm = nn.LayerNorm(in_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, outputs)

    def forward(self, fused: Tensor) -> Tensor:
        """``(B, in_dim) -> (B, K)``."""
        out: Tensor = self.linear(self.dropout(self.norm(fused)))
        return out


class FusionModel(nn.Module):
    """Encoders per modality, a fusion, and a head: ``dict of raw inputs -> predictions``.

    Args:
        encoders: modality name -> module ``(B, …) -> (B, ..., l_m)``, ``l_m`` the width the fusion was built for, or
            None for the identity. Exactly the fusion's modalities. An encoder only ever sees the samples that have
            the modality.
        fusion: any :class:`~equifuse.Fusion`.
        head: module ``(B, ..., out_dim) -> (B, ..., K)``.
        task: "classification", "multilabel", "regression", "retrieval", "survival", or None where the model is only a
            module.
        classes: class or target names, K of them, or None.

    Raises:
        UnknownNameError: an encoder for a modality the fusion does not have, or an unknown task.
        InputError: a modality has no encoder.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module | None],
        fusion: Fusion,
        head: nn.Module,
        *,
        task: str | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        for name in encoders:
            if name not in fusion.dims:
                raise UnknownNameError("modality", name, fusion.dims)
        missing = [name for name in fusion.dims if name not in encoders]
        if missing:
            raise InputError(f"no encoder for modality {missing[0]!r}; give None to feed it as it is")
        if task is not None and task not in TASKS:
            raise UnknownNameError("task", task, TASKS)
        self.encoders = nn.ModuleDict({name: encoders[name] or nn.Identity() for name in fusion.dims})
        self.fusion = fusion
        self.head = head
        self.task = task
        self.classes = tuple(classes) if classes is not None else None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.features: dict[str, tuple[str, ...]] = {}  # names of a modality's features, where a source has them
        self._recipe: dict[str, Any] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(self.encoders)

    @property
    def n_outputs(self) -> int | None:
        """Number of outputs ``K`` if the model was made by :func:`build_model`, else None."""
        return None if self._recipe is None else int(self._recipe["n_outputs"])

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        lengths: Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
    ) -> ModelOutput:
        """Predict a batch.

        Args:
            inputs: modality name -> ``(B, …)``; a modality left out is absent from the whole batch.
            present: modality name -> bool ``(B,)``; what an absent sample's input holds does not matter.
            lengths: modality name -> int64 ``(B,)``, how many steps of padded sequences ``(B, T, …)`` count; the
                modality's encoder must take lengths, as :class:`~equifuse.encoders.SequenceEncoder` does.
            index: the samples' numbers, for a fusion with a cache; see :meth:`Fusion.forward`.

        Returns:
            :class:`ModelOutput`.

        Raises:
            UnknownNameError: a modality the model does not have.
            InputError: a shape, width or mask does not fit.
        """
        encoded = self.encode(inputs, present, lengths=lengths)
        output = self.fusion(encoded, present, index=index)
        return ModelOutput(self.head(output.fused), output, encoded)

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What the fusion is given: each modality's ``(B, ..., l_m)``; arguments and errors as in the call."""
        present, lengths = present or {}, lengths or {}
        for name in (*inputs, *present, *lengths):
            if name not in self.encoders:
                raise UnknownNameError("modality", name, self.modalities)
        encoded = {}
        for name, encoder in self.encoders.items():
            if name in inputs:
                self._check_shape(name, inputs[name])
                steps = lengths.get(name)
                encoded[name] = _encode(encoder, inputs[name], steps, present.get(name), self.fusion.dims[name])
        return encoded

    def _check_shape(self, name: str, x: Tensor) -> None:
        expected = self.shapes.get(name)
        if expected is None:
            return
        if takes_lengths(self.encoders[name]) and x.dim() == 3 and x.shape[2:] == expected[1:]:
            return  # sequences may be of any length
        if tuple(x.shape[1:]) == expected:
            return
        if len(expected) == 1 and x.dim() == 2:
            raise InputError(f"modality {name!r} has width {x.shape[1]}, the model was built for {expected[0]}")
        raise InputError(f"modality {name!r} has shape {tuple(x.shape[1:])}, the model was built for {expected}")

    def fit_preprocessing(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Fit each :class:`Standardize` on the *training* part: ``inputs`` ``(n, *shape)``, ``present`` ``(n,)``."""
        self.fit_preprocessing_in_pieces([Piece(inputs, present or {}, lengths or {})])

    @torch.no_grad()
    def fit_preprocessing_in_pieces(self, pieces: Iterable[Piece]) -> None:
        """:meth:`fit_preprocessing` on a training part that comes in pieces; none of them is kept."""
        layers = {
            name: [module for module in encoder.modules() if isinstance(module, Standardize)]
            for name, encoder in self.encoders.items()
        }
        for inputs, present, lengths, weight in pieces:
            for name, x in inputs.items():
                mask, steps = present.get(name), lengths.get(name)
                here = slice(None) if mask is None else mask
                for layer in layers[name]:
                    layer.update(
                        x[here], None if steps is None else steps[here], None if weight is None else weight[here]
                    )
        for layer in (layer for some in layers.values() for layer in some):
            layer.finish()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Store the model as a folder of ``model.safetensors`` and ``model.json``; atomic, never a pickle.

        The recipe of a model made by :func:`build_model` is stored with it. For other models the fusion's recipe is
        stored, and :func:`load` needs the encoders and the head.

        Args:
            path: folder to create.
            overwrite: replace an existing folder.

        Raises:
            OutputExistsError: the path exists and ``overwrite`` is False.
        """
        from safetensors.torch import save_file  # noqa: PLC0415

        described = {
            "format": _FORMAT,
            "task": self.task,
            "classes": self.classes,
            "shapes": self.shapes,
            "features": self.features,
            "fusion": self.fusion.config(),
            "recipe": self._recipe,
        }
        with atomic_folder(Path(path), overwrite=overwrite) as staging:
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self.state_dict().items()}
            save_file(tensors, staging / _WEIGHTS)
            (staging / _CONFIG).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, card: str | None = None, overwrite: bool = False
    ) -> None:
        """:meth:`save` into a folder as it goes on the Hugging Face hub; an empty one may be there already.

        Args:
            folder: folder to create.
            card: content of its ``README.md``, such as :func:`equifuse.export.model_card`; None for no such file.
            overwrite: replace an existing folder.

        Raises:
            OutputExistsError: there is something in the folder and ``overwrite`` is False.
        """
        path = Path(folder)
        empty = path.is_dir() and not any(path.iterdir())
        self.save(path, overwrite=overwrite or empty)
        if card is not None:
            write_text(path / hub.CARD, card)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        encoders: Mapping[str, nn.Module | None] | None = None,
        head: nn.Module | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
        local_files_only: bool | None = None,
    ) -> FusionModel:
        """:func:`load` from a local folder, or else from a repository ``owner/name`` of the Hugging Face hub.

        Args:
            name: folder or repository.
            encoders: see :func:`load`.
            head: see :func:`load`.
            revision: branch, tag or commit of the repository.
            cache_dir: where downloads are kept; default the hub's cache.
            token: for private repositories; default the one stored by the hub's own login.
            local_files_only: take it from the cache, never from the network.

        Raises:
            DataError: nothing there, or a damaged file.
            InputError: a repository, and the extra ``equifuse[hub]`` is not installed.
        """
        folder = Path(name)
        if not folder.is_dir():
            folder = hub.download(
                str(name),
                (_CONFIG, _WEIGHTS),
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
            )
        return load(folder, encoders=encoders, head=head)

    def push_to_hub(
        self,
        repository: str,
        *,
        card: str | None = None,
        message: str = "Add model",
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to a repository of the Hugging Face hub, made if there is none.

        Args:
            repository: ``owner/name``.
            card: content of its ``README.md``; None leaves the one that is there.
            message: of the commit.
            private: whether a new repository is; default the owner's setting.
            token: default the one stored by the hub's own login.

        Returns:
            The commit's address.

        Raises:
            InputError: the extra ``equifuse[hub]`` is not installed.
            DataError: the hub refuses.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card)
            return hub.upload(Path(folder), repository, message, private=private, token=token)


def _encode(encoder: nn.Module, x: Tensor, lengths: Tensor | None, mask: Tensor | None, width: int) -> Tensor:
    """Encode the samples that have the modality; the others get zeros, which the fusion masks out anyway."""
    if mask is None:
        encoded: Tensor = encode(encoder, x, lengths)
        return encoded
    if mask.dtype != torch.bool or mask.dim() < 1 or mask.shape[0] != x.shape[0]:
        raise InputError(f"a mask must be bool with {x.shape[0]} samples, got {mask.dtype} {tuple(mask.shape)}")
    if mask.dim() > 1 or torch.compiler.is_compiling():
        # Positions cannot be dropped from a sample, nor samples from a graph: what is absent is blanked instead.
        extra = x.dim() - mask.dim()
        blanked = x.masked_fill(~mask.reshape(*mask.shape, *[1] * extra), 0)
        return encode(encoder, blanked, lengths)  # type: ignore[no-any-return]
    if not bool(mask.any()):
        return x.new_zeros(x.shape[0], width)
    some: Tensor = encode(encoder, x[mask], None if lengths is None else lengths[mask])
    return some.new_zeros(x.shape[0], *some.shape[1:]).index_put((mask.nonzero().squeeze(1),), some)


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
    clip: float | None = 5.0,
) -> FusionModel:
    """A model from names and numbers, as the command line builds it; it can be stored without any code.

    Every modality is standardised (fit with :meth:`FusionModel.fit_preprocessing`) and encoded.

    Args:
        shapes: modality name -> shape of one sample (or its width).
        task: "classification", "multilabel", "regression", "retrieval" or "survival".
        n_outputs: number of outputs ``K``: classes, labels, targets, 1 for survival, or the embedding width.
        fusion: name of a fusion.
        fusion_options: its options.
        encoder: "mlp" or "identity" (on flattened features), a pooling of
            :class:`~equifuse.encoders.SequenceEncoder` (on shapes ``(T, l)``), or "auto": "attention" for the
            ``sequences``, else "mlp". One for all modalities, or a mapping modality name -> encoder ("auto" for those
            not in it).
        encoder_options: ``hidden`` (widths, default [128]; the last is the output's, also of sequences), ``dropout``
            (default 0.3) and ``input_dropout`` (default 0).
        sequences: modalities whose samples are padded sequences.
        classes: names of the outputs.
        head_dropout: dropout before the head, in [0, 1).
        clip: bound on standardised inputs, or None.

    Raises:
        UnknownNameError: an unknown fusion, encoder, task, modality or option.
        InputError: a value out of range, or an encoder that does not fit a modality's shape.
    """
    given = {name: (shape,) if isinstance(shape, int) else tuple(shape) for name, shape in shapes.items()}
    options = dict(encoder_options or {})
    chosen = dict.fromkeys(given, encoder) if isinstance(encoder, str) else dict.fromkeys(given, "auto") | dict(encoder)
    for name in (*chosen, *sequences):
        if name not in given:
            raise UnknownNameError("modality", name, given)
    allowed = ("hidden", "dropout", "input_dropout")
    for option in options:
        if option not in allowed:
            raise UnknownNameError("option of an encoder:", option, allowed)
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    if n_outputs < 1:
        raise InputError(f"n_outputs must be at least 1, got {n_outputs}")
    # Of retrieval they are those of the samples, which some of its metrics count; its outputs have no names.
    if classes is not None and task != "retrieval" and len(classes) != n_outputs:
        raise InputError(f"classes names {len(classes)} outputs, n_outputs is {n_outputs}")
    encoders: dict[str, nn.Module | None] = {}
    dims: dict[str, int] = {}
    for name, shape in given.items():
        encoders[name], dims[name] = _encoder(name, shape, chosen[name], options, name in sequences, clip)
    module = make_fusion(fusion, dims, **_with_outputs(fusion, fusion_options, n_outputs))
    if module.tasks is not None and task not in module.tasks:
        raise InputError(f"fusion {fusion!r} is for {', '.join(module.tasks)}, the task is {task}")
    if module.decides and module.out_dim != n_outputs:
        raise InputError(f"fusion {fusion!r} has outputs={module.out_dim}, the task {n_outputs}; leave the option out")
    head = nn.Identity() if module.decides else LinearHead(module.out_dim, n_outputs, head_dropout)
    model = FusionModel(encoders, module, head, task=task, classes=classes)
    model.shapes = given
    model._recipe = {
        "n_outputs": n_outputs,
        "encoder": encoder if isinstance(encoder, str) else dict(encoder),
        "encoder_options": options,
        "sequences": list(sequences),
        "head_dropout": head_dropout,
        "clip": clip,
    }
    return model


def _with_outputs(fusion: str, options: Mapping[str, Any] | None, n_outputs: int) -> dict[str, Any]:
    """A fusion's options; one that decides by itself, or whose backend does, is told how many outputs there are."""
    given = dict(options or {})
    known, backend = options_of(fusion), given.get("backend")
    if "outputs" in known:
        given.setdefault("outputs", n_outputs)
    if "backend" in known and isinstance(backend, str):
        given["backend_options"] = _with_outputs(backend, given.get("backend_options"), n_outputs)
    return given


def _encoder(
    name: str, shape: tuple[int, ...], kind: str, options: Mapping[str, Any], padded: bool, clip: float | None
) -> tuple[nn.Module, int]:
    """The encoder of a modality, standardising included, and the width of what it gives."""
    if kind not in ENCODERS:
        raise UnknownNameError("encoder", kind, ENCODERS)
    if kind == "auto":
        kind = "attention" if padded else "mlp"
    width = math.prod(shape)
    hidden = options.get("hidden", (128,))
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    if kind in POOLINGS:
        if len(shape) != 2:
            raise InputError(f"encoder {kind!r} needs sequences (T, l); modality {name!r} has shape {shape}")
        dropout = options.get("dropout", 0.3)
        body = SequenceEncoder(shape[1], hidden[-1], kind, dropout=dropout)
        return Preprocessed(Standardize(shape[1:], clip), body), hidden[-1]
    if padded:
        raise InputError(f"encoder {kind!r} cannot tell padding from data in {name!r}; use {', '.join(POOLINGS)}")
    if kind == "identity":
        return Preprocessed(Standardize(shape, clip), nn.Flatten(1)), width
    return Preprocessed(Standardize(shape, clip), MLPEncoder(width, **{**options, "hidden": hidden})), hidden[-1]


def load(
    path: str | os.PathLike[str],
    *,
    encoders: Mapping[str, nn.Module | None] | None = None,
    head: nn.Module | None = None,
) -> FusionModel:
    """Load a model stored by :meth:`FusionModel.save`, in evaluation mode, on the CPU.

    Args:
        path: the folder.
        encoders: needed for a model that was not made by :func:`build_model`: modules of the same structure.
        head: likewise.

    Raises:
        DataError: nothing there, a damaged or unknown file, weights that do not fit, or modules that must be given.
    """
    from safetensors.torch import load_file  # noqa: PLC0415

    path = Path(path)
    if not (path / _CONFIG).is_file() or not (path / _WEIGHTS).is_file():
        raise DataError(f"no model at {path}: expected a folder with {_CONFIG} and {_WEIGHTS}")
    with reading(path / _CONFIG, "a model's description"):
        described = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        found = described["format"]
        if found != _FORMAT:
            raise DataError(f"{path} has model format {found}, this version reads {_FORMAT}")
        classes = tuple(described["classes"]) if described["classes"] is not None else None
        shapes = {name: tuple(shape) for name, shape in described["shapes"].items()}
        features = {name: tuple(names) for name, names in described.get("features", {}).items()}
        fusion = dict(described["fusion"])
        recipe, task = described["recipe"], described["task"]
        name, dims = fusion.pop("name"), fusion.pop("dims")
    with reading(path / _WEIGHTS, "safetensors"):
        tensors = load_file(path / _WEIGHTS)
    if recipe is not None and encoders is None and head is None:

        def build() -> FusionModel:
            return build_model(shapes, task, fusion=name, fusion_options=fusion, classes=classes, **recipe)

        with reading(path / _CONFIG, "a model's description"):
            _check_sizes(path, described, build, tensors)
            model = build()
    else:
        if encoders is None or head is None:
            raise DataError(f"the model at {path} has modules of its own; pass load(path, encoders=..., head=...)")
        module = make_fusion(name, dims, **fusion)
        model = FusionModel(encoders, module, head, task=task, classes=classes)
        model.shapes = shapes
    model.features = features
    try:
        model.to(_float_dtype(tensors)).load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"the weights at {path} do not fit the model: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def _check_sizes(path: Path, described: Any, build: Callable[[], FusionModel], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a description of a model larger than its weights before any memory is claimed for it."""
    most = max(_ALWAYS_ADMITTED, sum(tensor.numel() for tensor in tensors.values()))
    left = [described["fusion"], described["recipe"], described["shapes"]]
    while left:
        entry = left.pop()
        if isinstance(entry, (dict, list, tuple)):
            left.extend(entry.values() if isinstance(entry, dict) else entry)
        elif isinstance(entry, (int, float)) and not abs(entry) <= most and math.isfinite(entry):
            raise DataError(f"{path / _CONFIG} has a number of {entry:g}, beyond what its weights can be of")
    with torch.device("meta"):
        expected = {name: value.shape for name, value in build().state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in expected or name not in tensors or expected[name] != tensors[name].shape:
            here = tuple(tensors[name].shape) if name in tensors else "nothing"
            wanted = tuple(expected[name]) if name in expected else "nothing"
            raise DataError(f"the weights at {path} do not fit the model: {name} is {here}, the model has {wanted}")


def _float_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype the model was stored in: that of its first floating-point tensor."""
    return next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
