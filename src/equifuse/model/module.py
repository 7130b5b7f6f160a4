"""Encoders, a fusion and a head as one module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from equifuse.data.columns import Columns, owners_of
from equifuse.data.contents import Content
from equifuse.encoders import Standardize, States
from equifuse.encoders.preparation import fills_gaps, layers_before
from equifuse.encoders.preparation.gaps import enough_cells
from equifuse.encoders.preprocessed import takes_lengths
from equifuse.encoders.states import looking
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion import Fusion, FusionOutput
from equifuse.fusion.base import no_tensor
from equifuse.model.encoding import Steps, check_looks, encode_modality, has_states, states_of
from equifuse.model.heads import InputHead
from equifuse.model.outputs import encoder_tensor
from equifuse.model.skip import SkipConnection
from equifuse.model.unimodal import UnimodalHeads
from equifuse.registry import TASKS
from equifuse.solve.sync import can_read


class Piece(NamedTuple):
    """A part of a split, for preprocessing: inputs, presence and lengths by modality, and weights, as in a batch.

    >>> piece = ef.model.Piece({"a": torch.randn(8, 3)}, present={}, lengths={})
    >>> piece.weight is None
    True
    """

    inputs: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    weight: Tensor | None = None


@dataclass
class ModelOutput:
    """What a :class:`FusionModel` returns.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean")
    >>> out = model({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> out.prediction.shape, out.fusion.fused.shape, out.encoded["a"].shape
    (torch.Size([8, 1]), torch.Size([8, 128]), torch.Size([8, 128]))

    Attributes:
        prediction: ``(B, K)`` raw outputs: logits, values, or embeddings for retrieval.
        fusion: the fusion's output, with its losses and convergence.
        encoded: for each modality given its encoder's output ``(B, ..., l_m)``; rows of an absent modality have no
            meaning. {} if there is no single output for all modalities.
        fused: ``(B, K)`` what the head makes of the fused representation: the prediction itself without unimodal heads.
        unimodal: for each modality given what it says alone, ``(B, K)``, by its unimodal head, or by the fusion where
            that decides; rows of an absent modality have no meaning. {} if there are no such outputs.
        present: modality name -> bool ``(B,)``, as the masks and the share of empty cells say; a modality without a key
            is present in every sample.
    """

    prediction: Tensor
    fusion: FusionOutput
    encoded: dict[str, Tensor] = field(default_factory=dict)
    fused: Tensor | None = None
    unimodal: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)


class FusionModel(nn.Module):
    """Encoders for the modalities, a fusion and a head: from a dict of raw inputs to predictions.

    :func:`build_model` makes one from names; use this class to combine modules of your own.

    >>> fusion = ef.DEQFusion({"text": 300, "image": 64}, dim=32)
    >>> encoders = {"text": None, "image": torch.nn.Linear(512, 64)}
    >>> model = ef.FusionModel(encoders, fusion, torch.nn.Linear(32, 3), task="classification")
    >>> model({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).prediction.shape
    torch.Size([8, 3])

    Args:
        encoders: modality -> module ``(B, …) -> (B, ..., l_m)``, or None for the identity. It only gets samples that
            have the modality; with an attribute ``looks_at`` also that one's :class:`~equifuse.encoders.States`.
        fusion: any :class:`~equifuse.Fusion`.
        head: module ``(B, ..., out_dim) -> (B, ..., K)``.
        task: such as "classification"; None (default) if this library neither trains nor evaluates the model.
        classes: names of the ``K`` classes or targets, or None.
        unimodal: heads for what each modality says alone, and their mix with the fused one; None for none.
        skip: what is added to the fused representation before the head; None for nothing.

    Raises:
        UnknownNameError: an encoder for a modality that the fusion does not have, or an unknown task.
        InputError: a modality has no encoder, or one looks at what has no states.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module | None],
        fusion: Fusion,
        head: nn.Module,
        *,
        task: str | None = None,
        classes: tuple[str, ...] | None = None,
        unimodal: UnimodalHeads | None = None,
        skip: SkipConnection | None = None,
    ) -> None:
        super().__init__()
        for name in encoders:
            if name not in fusion.dims:
                raise UnknownNameError("modality", name, fusion.dims)
        missing = [name for name in fusion.dims if name not in encoders]
        if missing:
            raise InputError(f"no encoder for modality {missing[0]!r}; give None to feed it as it is")
        check_looks(encoders)
        if task is not None:
            TASKS.get(task)
        if unimodal is not None and fusion.decides:
            raise InputError(
                f"fusion {fusion.name!r} decides by what each modality says alone; it needs no other heads"
            )
        if skip is not None and fusion.decides:
            raise InputError(f"fusion {fusion.name!r} decides itself; there is no skip connection around it")
        self.encoders = nn.ModuleDict({name: encoders[name] or nn.Identity() for name in fusion.dims})
        self.fusion = fusion
        self.head = head
        self.unimodal = unimodal
        self.skip = skip
        self.task = task
        self.classes = tuple(classes) if classes is not None else None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.features: dict[str, tuple[str, ...]] = {}  # names of a modality's features, where a source has them
        self.contents: dict[str, Content] = {}  # what a modality's numbers stand for, where they are no measurements
        self.schema: dict[str, Columns] = {}  # what a table's columns hold, where they are not all numbers
        # Share of empty cells beyond which a row does not have a modality, in (0, 1]; None: only what masks say.
        self.row_missing: float | None = None
        self.spreads: list[float] | None = None  # what errors of each target are counted in, where the task asks for it
        self.recipe: dict[str, Any] | None = None
        # What training does to the encoders' outputs, such as mixing those of different samples.
        self.augment: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(self.encoders)

    @property
    def n_outputs(self) -> int | None:
        """Number of outputs ``K`` of a model made by :func:`build_model`, else None."""
        return None if self.recipe is None else int(self.recipe["n_outputs"])

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
            present: modality name -> bool ``(B,)``, True where present; rows of an absent modality may hold anything.
            lengths: modality name -> int64 ``(B,)``, numbers of valid steps of padded sequences ``(B, T, …)``; the
                modality's encoder must take lengths, as :class:`~equifuse.encoders.SequenceEncoder` does.
            index: the samples' numbers, for a fusion with warm starts; see :meth:`Fusion.forward`.

        Returns:
            :class:`ModelOutput`.

        Raises:
            UnknownNameError: a modality that the model does not have.
            InputError: a shape, width or mask does not fit.
        """
        present = self.presence(inputs, present, lengths=lengths)
        encoded = self.encode(inputs, present, lengths=lengths)
        if self.augment is not None and self.training:
            encoded = self.augment(encoded)
        return self.predict_encoded(encoded, present, index=index, inputs=inputs)

    def predict_encoded(
        self,
        encoded: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        index: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Predict from the encoders' outputs, as the call does; a head that reads inputs needs them, too."""
        sought = present
        if self.fusion.takes_steps:
            if not isinstance(encoded, Steps):
                raise InputError("this fusion takes steps, of which it must know the padding; call the model instead")
            sought = encoded.masks(present)
        output = self.fusion(encoded, sought, index=index)
        states = output.fused
        if self.skip is not None:
            states = states + self.skip(encoded, sought, states.dim())
        if isinstance(self.head, InputHead):
            if inputs is None:
                raise InputError(
                    f"the head of {self.task or 'this model'} looks at the inputs; encodings do not suffice"
                )
            fused = prediction = self.head(states, inputs, present or {})
        else:
            fused = prediction = self.head(states)
        # What looks at another modality does not speak for its own alone.
        own = {m: x for m, x in output.decisions.items() if m not in looking(self.encoders)}
        unimodal = own if self.fusion.decides else {}
        if self.unimodal is not None:
            unimodal = self.unimodal(encoded, sought, fused.dim())
            prediction = self.unimodal.mixed(fused, unimodal, sought)
        masks = {m: mask for m, mask in (present or {}).items() if m in encoded}
        return ModelOutput(prediction, output, dict(encoded), fused, unimodal, masks)

    def presence(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> Mapping[str, Tensor] | None:
        """Which rows have which modality: as the masks say, and where no more cells than ``row_missing`` are empty."""
        if self.row_missing is None:
            return present
        found = dict(present or {})
        for name, x in inputs.items():
            if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
                continue
            firsts = None
            if name in self.schema:
                _, places = np.unique(owners_of(self.schema[name]), return_index=True)
                firsts = torch.from_numpy(places).to(x.device)
            enough = enough_cells(x.isnan(), self.row_missing, (lengths or {}).get(name), firsts)
            if can_read(x) and bool(enough.all()):
                continue
            mask = found.get(name)
            if mask is not None and mask.dim() > 1:
                enough = enough.reshape(-1, *[1] * (mask.dim() - 1))
            found[name] = enough if mask is None else mask & enough
        return found

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The inputs of the fusion: ``(B, ..., l_m)`` for each modality; arguments and errors as in the call."""
        present, lengths = present or {}, lengths or {}
        for name in (*inputs, *present, *lengths):
            if name not in self.encoders:
                raise UnknownNameError("modality", name, self.modalities)
        looks = looking(self.encoders)
        encoded: dict[str, Tensor] = {}
        seen: dict[str, States] = {}
        # Those that others look at first; a modality that looks is looked at by none.
        for name in (*(m for m in self.encoders if m not in looks), *looks):
            if name not in inputs:
                continue
            x, steps, mask = inputs[name], lengths.get(name), present.get(name)
            if not isinstance(x, Tensor):
                raise InputError(no_tensor(name, x))
            self._check_shape(name, x)
            if not self.training and can_read(x):
                self.check_gaps(name, x, mask)
            encoder, width = self.encoders[name], self.fusion.dims[name]
            by_step = self.fusion.takes_steps and has_states(encoder)
            if by_step or name in looks.values():
                seen[name] = states_of(name, encoder, x, steps, mask)
                given = seen[name].steps if by_step else seen[name].pooled
                encoded[name] = encoder_tensor(name, given, len(x), width)
            else:
                context = seen.get(looks[name]) if name in looks else None
                encoded[name] = encode_modality(name, encoder, x, steps, mask, width, context)
        ordered = {name: encoded[name] for name in self.encoders if name in encoded}
        if not self.fusion.takes_steps:
            return ordered
        return Steps(ordered, {name: states.valid for name, states in seen.items() if ordered[name].dim() == 3})

    def check_gaps(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        """Refuse empty cells (NaN) of a modality that no step of its preparation fills, in rows that have it.

        Raises:
            InputError: there are some.
        """
        if fills_gaps(self.encoders[name]) or not x.is_floating_point():
            return
        empty = x.isnan()
        if mask is not None:
            empty = empty & mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
        if bool(empty.any()):
            rows = int(empty.flatten(1).any(1).sum())
            raise InputError(
                f"modality {name!r} has empty cells (NaN) in {rows} of {len(x)} rows, and this model does not fill "
                "them; train one with prepare='impute:median', or mark the rows as missing"
            )

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
        """Fit every :class:`Standardize` on the *training* part: ``inputs`` ``(n, *shape)``, ``present`` ``(n,)``."""
        self.fit_preprocessing_in_pieces([Piece(inputs, present or {}, lengths or {})])

    @torch.no_grad()
    def fit_preprocessing_in_pieces(self, pieces: Iterable[Piece]) -> None:
        """:meth:`fit_preprocessing` on a training part that comes in pieces, which are not stored."""
        layers = {name: _to_fit(encoder) for name, encoder in self.encoders.items()}
        if not any(fitted for _, fitted in layers.values()):
            return
        for inputs, present, lengths, weight in pieces:
            for name, x in inputs.items():
                before, fitted = layers[name]
                mask, steps = present.get(name), lengths.get(name)
                here = slice(None) if mask is None else mask
                rows = x[here]
                for layer in before:
                    rows = layer(rows)
                for each in fitted:
                    each.update(rows, None if steps is None else steps[here], None if weight is None else weight[here])
        for each in (layer for _, some in layers.values() for layer in some):
            each.finish()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Store the model as a folder of ``model.safetensors`` and ``model.json``; atomic, never a pickle.

        A model made by :func:`build_model` can be loaded without code. For others the fusion's configuration is stored,
        and :func:`load` needs the encoders and the head.

        Args:
            path: folder to create.
            overwrite: replace an existing folder.

        Raises:
            OutputExistsError: the path exists and ``overwrite`` is False.
        """
        from equifuse.model import store  # noqa: PLC0415 - it builds models, which are of this file

        store.save(self, Path(path), overwrite=overwrite)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, card: str | None = None, overwrite: bool = False
    ) -> None:
        """:meth:`save` into a folder for the Hugging Face hub, which may exist if it is empty.

        Args:
            folder: folder to create.
            card: content of its ``README.md``, such as :func:`equifuse.export.model_card`; None for no such file.
            overwrite: replace an existing folder.

        Raises:
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
        """
        from equifuse.model import store  # noqa: PLC0415

        store.save_pretrained(self, Path(folder), card, overwrite=overwrite)

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
        """:func:`load` from a local folder, or from a repository ``owner/name`` of the Hugging Face hub.

        Args:
            name: folder or repository.
            encoders: see :func:`load`.
            head: see :func:`load`.
            revision: branch, tag or commit of the repository.
            cache_dir: folder for downloads; default the hub's cache.
            token: for private repositories; default the one stored by the hub's own login.
            local_files_only: never use the network.

        Raises:
            DataError: there is no model, or a file is damaged.
            InputError: it is a repository, and the extra ``equifuse[hub]`` is not installed.
        """
        from equifuse.model import store  # noqa: PLC0415

        return store.load_pretrained(
            name,
            encoders=encoders,
            head=head,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        card: str | None = None,
        message: str = "Add model",
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to a repository of the Hugging Face hub, which is created if it does not exist.

        Args:
            repository: ``owner/name``.
            card: content of its ``README.md``; None keeps an existing one.
            message: commit message.
            private: whether a new repository is private; default the owner's setting.
            token: default the one stored by the hub's own login.

        Returns:
            The commit's address.

        Raises:
            InputError: the extra ``equifuse[hub]`` is not installed.
            DataError: the hub refuses.
        """
        from equifuse.model import store  # noqa: PLC0415

        return store.push_to_hub(self, repository, card, message, private=private, token=token)


def _to_fit(encoder: nn.Module) -> tuple[list[nn.Module], list[Standardize]]:
    """The layers that standardise, and those before them; of a preparation the last, if it does so."""
    layers = layers_before(encoder)
    if not layers:
        return [], [module for module in encoder.modules() if isinstance(module, Standardize)]
    *before, last = layers
    return before, [last] if isinstance(last, Standardize) else []
