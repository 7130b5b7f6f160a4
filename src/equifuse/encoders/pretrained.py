"""Text, images and sound by pretrained models of Hugging Face transformers or timm, from a local folder, offline.

Needs the extra ``equifuse[transformers]``, or ``equifuse[timm]`` for image models in timm's format.
:class:`PretrainedEncoder` is a module to train with, frozen or fine-tuned; :func:`extract` runs a frozen model over
raw items once and stores the features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.encoders.sequence import valid_steps
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.files import atomic

KINDS = ("text", "image", "audio")
# What a description must not bring: code, kernels and weights from elsewhere.
_REFUSED = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config", "checkpoint_path")
_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_POOLINGS = ("mean", "first")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415
    except ImportError:
        raise InputError("pretrained encoders need an extra; run pip install 'equifuse[transformers]'") from None
    return transformers


def _timm() -> Any:
    try:
        import timm  # noqa: PLC0415
    except ImportError:
        raise InputError("a model of timm needs an extra; run pip install 'equifuse[timm]'") from None
    return timm


def _is_timm(folder: Path) -> bool:
    """Whether a model is stored in timm's format, which names an architecture."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / 'config.json'} cannot be read: {error}") from None
    return isinstance(described, dict) and isinstance(described.get("architecture"), str)


def _load_timm(folder: Path) -> Any:
    library = _timm()
    try:
        return library.create_model(f"local-dir:{folder.resolve()}", pretrained=True, num_classes=0)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(f"{folder} cannot be read: {' '.join(str(error).split())}") from None


def _described(backbone: Any, folder: Path, *, timm: bool) -> dict[str, Any]:
    """What makes a model of the same structure, as plain values."""
    if not timm:
        return {"library": "transformers", "config": json.loads(backbone.config.to_json_string(use_diff=True))}
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {"library": "timm", "config": {k: stored[k] for k in ("architecture", "model_args") if k in stored}}


def _fresh(library: str, config: Mapping[str, Any]) -> Any:
    """A model of a structure, with weights that are still to be loaded; no code comes with it.

    Raises:
        DataError: there is no such structure.
    """
    given = {name: value for name, value in config.items() if name.lstrip("_") not in _REFUSED}
    try:
        if library == "timm":
            name, arguments = str(given["architecture"]), dict(given.get("model_args", {}))
            if not name.replace(".", "_").isidentifier():  # a name such as hf-hub:... is a download
                raise ValueError(f"{name!r} is no architecture")
            arguments = {key: value for key, value in arguments.items() if key not in (*_REFUSED, *_OF_TIMM)}
            return _timm().create_model(name, **{**arguments, "pretrained": False, "num_classes": 0})
        known = _transformers()
        return known.AutoModel.from_config(known.AutoConfig.for_model(given.pop("model_type"), **given))
    except (KeyError, ValueError, TypeError, RuntimeError, ImportError) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(f"a stored description of a pretrained model is damaged: {error}") from None


def _folder(path: str | os.PathLike[str]) -> Path:
    """A folder with a model whose weights are not a pickle.

    Raises:
        DataError: there is no such model.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise DataError(
            f"no model at {folder}: expected a folder with config.json and {_WEIGHTS[0]}; nothing is downloaded"
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise DataError(f"{folder} has no {_WEIGHTS[0]}; weights in other formats (pickles) are not read")
    return folder


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"{folder} cannot be read: {' '.join(str(error).split())}") from None


class PretrainedEncoder(nn.Module):
    """A pretrained model as an encoder: ``(B, …) -> (B, d)``, with its hidden width ``d``.

    Args:
        path: local folder with ``config.json`` and ``model.safetensors``; or what :meth:`described` gave, for weights
            that are loaded afterwards.
        kind: "text" (inputs are token numbers ``(B, T)`` with lengths), "image" (pixel values ``(B, C, H, W)``) or
            "audio" (waveforms ``(B, T)`` with lengths).
        pooling: "mean" of the states of valid steps, or the "first" state (``[CLS]``); a model of timm always uses its
            own pooling.
        frozen: True (default): no gradients, and always evaluation mode; False fine-tunes it with the rest.

    Attributes:
        out_dim: the width ``d``.

    Raises:
        InputError: the extra is not installed.
        DataError: there is no model, or it cannot be read.
        UnknownNameError: an unknown kind or pooling.
    """

    takes_lengths: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str] | Mapping[str, Any],
        kind: str = "text",
        *,
        pooling: str = "mean",
        frozen: bool = True,
    ) -> None:
        super().__init__()
        for what, value, known in (("kind", kind, KINDS), ("pooling", pooling, _POOLINGS)):
            if value not in known:
                raise UnknownNameError(what, value, known)
        if isinstance(path, Mapping):
            self.from_timm = path["library"] == "timm"
            self.backbone = _fresh(str(path["library"]), path["config"])
            self._structure = {"library": path["library"], "config": dict(path["config"])}
        else:
            self._load(_folder(path), kind)
        if kind == "image" and hasattr(self.backbone, "vision_model"):
            self.backbone = self.backbone.vision_model  # of a model of text and images
        elif kind == "text" and hasattr(self.backbone, "text_model"):
            self.backbone = self.backbone.text_model
        self.kind, self.pooling, self.frozen = kind, pooling, frozen
        self.out_dim = int(self.backbone.num_features if self.from_timm else self.backbone.config.hidden_size)
        if frozen:
            self.requires_grad_(False)
        self.train(self.training)

    def _load(self, folder: Path, kind: str) -> None:
        self.from_timm = _is_timm(folder)
        if self.from_timm and kind != "image":
            raise InputError(f"{folder} holds an image model of timm; it cannot encode {kind}")
        self.backbone = (
            _load_timm(folder) if self.from_timm else _load(_transformers().AutoModel, folder, use_safetensors=True)
        )
        self._structure = _described(self.backbone, folder, timm=self.from_timm)

    def described(self) -> dict[str, Any]:
        """Plain values that make a model of the same structure, in the place of a path."""
        return dict(self._structure)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Set the mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, …)`` and int64 ``(B,)`` (None: no padding) ``-> (B, d)``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.from_timm:
                return self.backbone(x)  # type: ignore[no-any-return]
            if self.kind == "image":
                states = self.backbone(pixel_values=x).last_hidden_state
                valid = None
            else:
                valid = valid_steps(x, lengths)
                x = torch.where(valid, x, 0)
                key = {"input_ids": x.long()} if self.kind == "text" else {"input_values": x}
                states = self.backbone(**key, attention_mask=valid.long()).last_hidden_state
                if states.shape[1] != valid.shape[1]:  # sound is shortened by the model
                    steps = torch.ceil(valid.sum(1) * states.shape[1] / valid.shape[1]).long()
                    valid = valid_steps(states, steps)
            if self.pooling == "first":
                return states[:, 0]  # type: ignore[no-any-return]
            if valid is None:
                return states.mean(1)  # type: ignore[no-any-return]
            share = valid.to(states.dtype) / valid.sum(1, keepdim=True).clamp(min=1)
            return (share[:, None] @ torch.where(valid[:, :, None], states, 0.0)).squeeze(1)


def extract(
    items: Sequence[Any],
    path: str | os.PathLike[str],
    kind: str = "text",
    *,
    cache: str | os.PathLike[str] | None = None,
    pooling: str = "mean",
    batch_size: int = 32,
    sampling_rate: int = 16_000,
) -> NDArray[np.float32]:
    """Features of raw items (texts, images, sound) by a frozen pretrained model.

    Args:
        items: texts; or images, as arrays ``(H, W, 3)`` of bytes or paths of image files; or waveforms ``(T,)``.
            None stands for a missing item, whose features are NaN.
        path: local folder of the model and its tokenizer or preprocessor.
        kind: "text", "image" or "audio".
        cache: folder to store features in. They are found again by the content of the items, the files of the model
            and the options; a change of any of them makes a new entry. Entries are written atomically.
        pooling: see :class:`PretrainedEncoder`.
        batch_size: items per batch.
        sampling_rate: of the waveforms, in Hz.

    Returns:
        Float32 ``(n, d)``.

    Raises:
        InputError: the extra is not installed, or there are no items.
        DataError: there is no model, or items cannot be read.
        UnknownNameError: an unknown kind or pooling.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    if not len(items):
        raise InputError("there is nothing to extract features of")
    folder = _folder(path)
    entry = None
    if cache is not None:
        options = {"kind": kind, "pooling": pooling, "sampling_rate": sampling_rate}
        entry = Path(cache) / f"{_key(items, folder, options)}.npy"
        if entry.is_file():
            found: NDArray[np.float32] = np.load(entry, allow_pickle=False)
            return found
    features = _run(items, folder, kind, pooling, batch_size, sampling_rate)
    if entry is not None:
        with atomic(entry) as staging:
            np.save(staging, features, allow_pickle=False)
    return features


def _key(items: Sequence[Any], folder: Path, options: dict[str, Any]) -> str:
    """A name for the features of these items by this model."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as content:
            while piece := content.read(2**20):
                digest.update(piece)
    for item in items:
        if isinstance(item, (str, os.PathLike)) and options["kind"] == "image":
            raw = _bytes_of(Path(item))
        elif isinstance(item, str):
            raw = item.encode()
        elif item is None:
            raw = b"\0missing"
        else:
            array = np.ascontiguousarray(item)
            raw = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:32]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


@torch.inference_mode()
def _run(
    items: Sequence[Any], folder: Path, kind: str, pooling: str, batch_size: int, sampling_rate: int
) -> NDArray[np.float32]:
    encoder = PretrainedEncoder(folder, kind, pooling=pooling).eval()
    prepare = _preparation(folder, kind, sampling_rate)
    there = [i for i, item in enumerate(items) if item is not None]
    features = np.full((len(items), encoder.out_dim), np.nan, dtype=np.float32)
    for start in range(0, len(there), batch_size):
        some = there[start : start + batch_size]
        x, lengths = prepare([items[i] for i in some])
        features[some] = encoder(x, lengths).float().numpy()
    return features


def _preparation(folder: Path, kind: str, sampling_rate: int) -> Any:
    """The function that turns raw items into tensors and lengths."""
    if kind == "image":
        process = _image_processing(folder)

        def of_images(images: list[Any]) -> tuple[Tensor, None]:
            return process([_opened(image) for image in images]), None

        return of_images
    library = _transformers()
    if kind == "text":
        tokenizer = _load(library.AutoTokenizer, folder)

        def of_text(texts: list[str]) -> tuple[Tensor, Tensor]:
            found = tokenizer(texts, padding=True, truncation=True, padding_side="right", return_tensors="pt")
            return found["input_ids"], found["attention_mask"].sum(1)

        return of_text
    extractor = _load(library.AutoFeatureExtractor, folder)

    def of_sound(waves: list[Any]) -> tuple[Tensor, Tensor]:
        arrays = [np.asarray(wave, dtype=np.float32).ravel() for wave in waves]
        found = extractor(arrays, sampling_rate=sampling_rate, padding=True, return_tensors="pt")
        return found["input_values"], torch.tensor([len(wave) for wave in arrays])

    return of_sound


def _image_processing(folder: Path) -> Callable[[list[Any]], Tensor]:
    """The function that turns RGB images into pixel values ``(B, 3, H, W)`` for the model in a folder."""
    if not _is_timm(folder):
        processor = _load(_transformers().AutoImageProcessor, folder)
        return lambda images: processor(images, return_tensors="pt")["pixel_values"]
    library = _timm()
    wanted = library.data.resolve_model_data_config(_load_timm(folder))
    transform = library.data.create_transform(**wanted, is_training=False)
    return lambda images: torch.stack([transform(image) for image in images])


def _opened(image: Any) -> Any:
    """An RGB image from an array or a file.

    Raises:
        DataError: it is not an image.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        read = Image.open(image) if isinstance(image, (str, os.PathLike)) else Image.fromarray(image)
        return read.convert("RGB")
    except (OSError, UnidentifiedImageError, TypeError, ValueError) as error:
        raise DataError(f"not an image: {error}") from None
