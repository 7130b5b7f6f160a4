"""Pretrained models as encoders of a fusion model: frozen, fine-tuned, or with low-rank adapters."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from equifuse.encoders.backbones import Backbone
from equifuse.encoders.mlp import MLPEncoder
from equifuse.errors import InputError, OutputError
from equifuse.extras import require
from equifuse.files import atomic, cache_folder
from equifuse.solve.sync import can_read

# How a pretrained model is trained: not at all, all of it, or low-rank changes of its linear maps.
FROZEN, FINETUNED, LORA = "pretrained", "finetuned", "lora"
# Frozen models inside of packages, which need no further name.
_ALONE = ("efficientnet", "wordllama")
TUNED = (FROZEN, FINETUNED, LORA, *_ALONE)
# Items that a frozen model on a GPU sees at a time.
_TOGETHER = 64


def tuned(asked: str) -> tuple[str, str] | None:
    """How a model is trained, and where it is, of an encoder's name; None for one that is not pretrained.

    >>> from equifuse.encoders.tuned import tuned
    >>> tuned("efficientnet"), tuned("lora:models/bert"), tuned("mlp")
    (('pretrained', 'efficientnet'), ('lora', 'models/bert'), None)

    Raises:
        InputError: the model is missing.
    """
    kind, _, source = asked.partition(":")
    if kind in _ALONE and not source:
        return FROZEN, kind
    if kind not in (FROZEN, FINETUNED, LORA):
        return None
    if not source:
        raise InputError(f"say which model: {kind}:FOLDER, {kind}:efficientnet or {kind}:wordllama")
    return kind, source


class TunedEncoder(nn.Module):
    """A pretrained model, then LayerNorm and an :class:`~equifuse.encoders.MLPEncoder` that are trained.

    What a frozen model says of an item is computed once and kept on disk (``EQUIFUSE_CACHE``), by the model, its
    weights and the item's content; on a CPU for each item alone, so that it does not depend on the others of its batch.

    >>> from equifuse.encoders.backbones import Backbone
    >>> class Colours(Backbone):
    ...     out_dim, slow = 3, False
    ...     def forward(self, x, lengths=None):
    ...         return x.mean((2, 3))
    >>> encoder = ef.encoders.TunedEncoder(Colours(), hidden=(16,))
    >>> encoder(torch.randint(0, 256, (2, 3, 64, 64)).float()).shape
    torch.Size([2, 16])

    Args:
        backbone: the model.
        mode: "pretrained" (frozen), "finetuned" or "lora" (low-rank adapters of all its linear maps, by ``peft``).
        hidden: widths of the layers after it; the last is that of the output.
        dropout: rate in [0, 1) after each of them.
        rank: of the adapters.
        checkpointing: whether activations are computed again in the backward pass instead of being kept.

    Raises:
        InputError: the extra ``equifuse[lora]`` is not installed, or the model has no linear maps or no checkpointing.
    """

    kind: ClassVar[str] = "tuned"

    def __init__(
        self,
        backbone: Backbone,
        mode: str = FROZEN,
        hidden: tuple[int, ...] = (128,),
        *,
        dropout: float = 0.3,
        rank: int = 8,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.mode = backbone, mode
        self.takes_lengths = backbone.takes == "texts"
        self.given = False  # whether what comes in is what the model says already
        self._key: tuple[Any, str] | None = None
        if mode == FROZEN:
            backbone.requires_grad_(False)
        elif mode == LORA:
            _adapt(backbone, rank)
        if checkpointing and mode != FROZEN:
            backbone.save_memory()
        self.norm = nn.LayerNorm(backbone.out_dim, elementwise_affine=False)
        self.join = MLPEncoder(backbone.out_dim, hidden, dropout)
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether the pretrained model stays as it is."""
        return self.mode == FROZEN

    def train(self, mode: bool = True) -> TunedEncoder:
        """Set the mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, …)``, of texts with their lengths, ``-> (B, hidden[-1])``."""
        found = x if self.given else self.features(x, lengths)
        out: Tensor = self.join(self.norm(found))
        return out

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the pretrained model says, ``(B, width)``; of clips ``(B, F, 3, H, W)`` the mean over frames."""
        if x.dim() == 5:
            return self.features(x.flatten(0, 1)).reshape(*x.shape[:2], -1).mean(1)
        asked = x.requires_grad and torch.is_grad_enabled()  # what of the input matters, as explanations ask
        if not self.frozen or asked:
            found: Tensor = self.backbone(x, lengths)
            return found
        with torch.no_grad():
            if not can_read(x):
                found = self.backbone(x, lengths)
                return found
            return self._kept(x, lengths)

    def _kept(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """What a frozen model says of rows, from the disk where that is known."""
        if not len(x):
            return x.new_zeros(0, self.backbone.out_dim)
        files = self._files(x, lengths) if self.backbone.slow else []
        known = [_read(file, self.backbone.out_dim) for file in files] or [None] * len(x)
        new = [row for row, found in enumerate(known) if found is None]
        size = 1 if x.device.type == "cpu" and self.backbone.slow else _TOGETHER
        for start in range(0, len(new), size):
            rows = new[start : start + size]
            part = None if lengths is None else lengths[rows]
            steps = x.shape[1] if part is None else max(1, int(part.max()))
            some = self.backbone(x[rows] if part is None else x[rows, :steps], part).float()
            for row, found in zip(rows, some, strict=True):
                known[row] = found
                if files:
                    _write(files[row], found)
        return torch.stack([found.to(x) for found in known if found is not None])

    def _files(self, x: Tensor, lengths: Tensor | None) -> list[Path]:
        """Where what the model says of each row is kept."""
        autocast = torch.is_autocast_enabled(x.device.type)
        folder = cache_folder() / "features" / f"{self._model_key()}-{x.device.type}{'-mixed' * autocast}"
        found = []
        for row, item in enumerate(x.detach().cpu()):
            part = item if lengths is None else item[: int(lengths[row])]
            said = f"{part.dtype}{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes()
            name = hashlib.sha256(said).hexdigest()[:32]
            found.append(folder / name[:2] / f"{name}.npy")
        return found

    def _model_key(self) -> str:
        """A word for the model and its weights, computed again where they have changed."""
        tensors = list(self.backbone.state_dict(keep_vars=True).values())
        state = tuple((id(tensor), tensor._version, tensor.device, tensor.dtype) for tensor in tensors)
        if self._key is None or self._key[0] != state:
            digest = hashlib.sha256(json.dumps(self.backbone.described(), sort_keys=True).encode())
            for tensor in tensors:
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._key = state, digest.hexdigest()[:32]
        return self._key[1]


def _adapt(backbone: Backbone, rank: int) -> None:
    """Put low-rank adapters at all linear maps, the only parameters that are trained from then on."""
    names = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise InputError(f"{type(backbone).__name__} has no linear maps for low-rank adapters; use {FINETUNED}:...")
    peft: Any = require("lora", "peft", "low-rank adapters")
    backbone.requires_grad_(False)
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), backbone)


def _read(file: Path, width: int) -> Tensor | None:
    """What is kept of an item; None for nothing, or what is damaged."""
    if not file.is_file():
        return None
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(found) if found.shape == (width,) and found.dtype == np.float32 else None


def _write(file: Path, found: Tensor) -> None:
    try:
        with atomic(file) as staging:
            np.save(staging, found.cpu().numpy(), allow_pickle=False)
    except OutputError as error:
        warnings.warn(f"what a pretrained model says is not kept, and computed each time: {error}", stacklevel=2)
