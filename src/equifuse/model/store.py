"""Models on disk and on the Hugging Face hub: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from equifuse import hub
from equifuse.data.columns import Column
from equifuse.data.contents import content_of
from equifuse.encoders import looks_at
from equifuse.errors import DataError, InputError
from equifuse.files import atomic_folder, parse_errors, write_text
from equifuse.fusion import make_fusion
from equifuse.fusion.output_map import OutputMap
from equifuse.model.build import build_model
from equifuse.model.ensemble import Ensemble
from equifuse.model.module import FusionModel
from equifuse.model.skip import SkipConnection
from equifuse.model.unimodal import UnimodalHeads

_FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
# Of an ensemble.
ENSEMBLE, MEMBERS = "ensemble.json", "members"
_MOST_MEMBERS = 10_000
# Numbers in a stored recipe that may be larger than the model has weights.
_ALWAYS_ADMITTED = 10_000


def save(model: FusionModel, path: Path, *, overwrite: bool = False) -> None:
    """Store a model as a folder of ``model.safetensors`` and ``model.json``; see :meth:`FusionModel.save`."""
    if isinstance(model, Ensemble):
        _save_ensemble(model, path, overwrite=overwrite)
        return
    from safetensors.torch import save_file  # noqa: PLC0415

    described = {
        "format": _FORMAT,
        "task": model.task,
        "classes": model.classes,
        "shapes": model.shapes,
        "features": model.features,
        "schema": {m: [column.stored() for column in columns] for m, columns in model.schema.items()},
        "contents": {m: content.stored() for m, content in model.contents.items()},
        "row_missing": model.row_missing,
        "spreads": model.spreads,
        "fusion": model.fusion.config(),
        "recipe": model.recipe,
        "unimodal_outputs": None if model.unimodal is None else model.unimodal.outputs,
        **({} if model.skip is None else {"skip": True}),
    }
    with atomic_folder(path, overwrite=overwrite) as staging:
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        save_file(tensors, staging / WEIGHTS)
        (staging / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _save_ensemble(model: Ensemble, path: Path, *, overwrite: bool) -> None:
    """Store an ensemble as ``ensemble.json`` and a folder for each member."""
    described = {"format": _FORMAT, "members": len(model.members), "weights": model.weights.tolist()}
    with atomic_folder(path, overwrite=overwrite) as staging:
        for number, member in enumerate(model.members, 1):
            save(member, staging / MEMBERS / str(number))
        (staging / ENSEMBLE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _load_ensemble(path: Path) -> Ensemble:
    with parse_errors(path / ENSEMBLE, "an ensemble's description"):
        described = json.loads((path / ENSEMBLE).read_text(encoding="utf-8"))
        if described["format"] != _FORMAT:
            raise DataError(f"{path} has model format {described['format']}, this version reads {_FORMAT}")
        count, weights = int(described["members"]), [float(weight) for weight in described["weights"]]
    if not 1 <= count == len(weights) or count > _MOST_MEMBERS:
        raise DataError(f"{path / ENSEMBLE} says {count} members and has {len(weights)} weights")
    try:
        return Ensemble([load(path / MEMBERS / str(number)) for number in range(1, count + 1)], weights).eval()
    except InputError as error:
        raise DataError(f"the ensemble at {path} is damaged: {error}") from None


def save_pretrained(model: FusionModel, folder: Path, card: str | None, *, overwrite: bool) -> None:
    """:func:`save` into a folder as it goes on the hub; see :meth:`FusionModel.save_pretrained`."""
    empty = folder.is_dir() and not any(folder.iterdir())
    save(model, folder, overwrite=overwrite or empty)
    if card is not None:
        write_text(folder / hub.CARD, card)


def load_pretrained(
    name: str | os.PathLike[str],
    *,
    encoders: Mapping[str, nn.Module | None] | None,
    head: nn.Module | None,
    **download: Any,
) -> FusionModel:
    """:func:`load` from a local folder, or from the hub; see :meth:`FusionModel.from_pretrained`."""
    folder = Path(name)
    if not folder.is_dir():
        folder = hub.download(str(name), (DESCRIPTION, WEIGHTS, ENSEMBLE, f"{MEMBERS}/*"), **download)
    return load(folder, encoders=encoders, head=head)


def push_to_hub(
    model: FusionModel, repository: str, card: str | None, message: str, *, private: bool | None, token: str | None
) -> str:
    """Upload a model to the hub; see :meth:`FusionModel.push_to_hub`."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder), card, overwrite=False)
        return hub.upload(Path(folder), repository, message, private=private, token=token)


def load(
    path: str | os.PathLike[str],
    *,
    encoders: Mapping[str, nn.Module | None] | None = None,
    head: nn.Module | None = None,
) -> FusionModel:
    """Load a model stored by :meth:`FusionModel.save`, in evaluation mode, on the CPU.

    >>> model = ef.build_model({"text": 300, "image": 512}, "classification", 3, fusion="gmf").eval()
    >>> model.save("model")
    >>> inputs = {"text": torch.randn(8, 300), "image": torch.randn(8, 512)}
    >>> torch.equal(ef.load("model")(inputs).prediction, model(inputs).prediction)
    True

    Args:
        path: the folder.
        encoders: needed for a model that was not made by :func:`build_model`: modules of the same structure.
        head: likewise.

    Returns:
        The model.

    Raises:
        DataError: there is no model, a file is damaged or of an unknown version, weights do not fit, or modules are
            needed.
    """
    from safetensors.torch import load_file  # noqa: PLC0415

    path = Path(path)
    if (path / ENSEMBLE).is_file():
        return _load_ensemble(path)
    if not (path / DESCRIPTION).is_file() or not (path / WEIGHTS).is_file():
        raise DataError(f"no model at {path}: expected a folder with {DESCRIPTION} and {WEIGHTS}")
    with parse_errors(path / DESCRIPTION, "a model's description"):
        described = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        found = described["format"]
        if found != _FORMAT:
            raise DataError(f"{path} has model format {found}, this version reads {_FORMAT}")
        classes = tuple(described["classes"]) if described["classes"] is not None else None
        shapes = {name: tuple(shape) for name, shape in described["shapes"].items()}
        features = {name: tuple(names) for name, names in described.get("features", {}).items()}
        schema = {name: tuple(map(Column.of, each)) for name, each in described.get("schema", {}).items()}
        contents = {name: content_of(each) for name, each in described.get("contents", {}).items()}
        row_missing = described.get("row_missing")
        row_missing = None if row_missing is None else float(row_missing)
        spreads = described.get("spreads")
        spreads = None if spreads is None else [float(each) for each in spreads]
        fusion = dict(described["fusion"])
        recipe, task = described["recipe"], described["task"]
        alone = described.get("unimodal_outputs")  # what version 0.1 stored has none
        alone = None if alone is None else int(alone)
        around = bool(described.get("skip", False))
        name, dims = fusion.pop("name"), fusion.pop("dims")
    with parse_errors(path / WEIGHTS, "safetensors"):
        tensors = load_file(path / WEIGHTS)
    if recipe is not None and encoders is None and head is None:

        def build() -> FusionModel:
            model = build_model(
                shapes, task, fusion=name, fusion_options=fusion, classes=classes, contents=contents, **recipe
            )
            return _with_units(model, tensors)

        with parse_errors(path / DESCRIPTION, "a model's description"):
            _check_sizes(path, described, build, tensors)
            model = build()
    else:
        if encoders is None or head is None:
            raise DataError(f"the model at {path} has modules of its own; pass load(path, encoders=..., head=...)")
        module = make_fusion(name, dims, **fusion)
        own = {m: width for m, width in dims.items() if looks_at(encoders[m]) is None}
        unimodal = None if alone is None else UnimodalHeads(own, alone)
        skip = SkipConnection(dims, module.out_dim) if around else None
        model = FusionModel(encoders, module, head, task=task, classes=classes, unimodal=unimodal, skip=skip)
        model.shapes = shapes
        _with_units(model, tensors)
    model.features, model.schema, model.contents = features, schema, contents
    model.row_missing, model.spreads = row_missing, spreads
    try:
        model.to(_float_dtype(tensors)).load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"the weights at {path} do not fit the model: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def _with_units(model: FusionModel, tensors: Mapping[str, Tensor]) -> FusionModel:
    """A model with room for units where its weights have some."""
    for name, last in model.named_modules():
        if isinstance(last, OutputMap) and f"{name}.scale" in tensors:
            last.set_units(torch.empty_like(last.bias), torch.empty_like(last.bias))
    return model


def _check_sizes(path: Path, described: Any, build: Callable[[], FusionModel], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a description of a model that is larger than its weights, before any memory is allocated for it."""
    most = max(_ALWAYS_ADMITTED, sum(tensor.numel() for tensor in tensors.values()))
    left = [described["fusion"], described["recipe"], described["shapes"]]
    while left:
        entry = left.pop()
        if isinstance(entry, (dict, list, tuple)):
            left.extend(entry.values() if isinstance(entry, dict) else entry)
        elif isinstance(entry, (int, float)) and not abs(entry) <= most and math.isfinite(entry):
            raise DataError(f"{path / DESCRIPTION} has a number of {entry:g}, beyond what its weights can be of")
    with torch.device("meta"), _Sizes():
        expected = {name: value.shape for name, value in build().state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in expected or name not in tensors or expected[name] != tensors[name].shape:
            here = tuple(tensors[name].shape) if name in tensors else "nothing"
            wanted = tuple(expected[name]) if name in expected else "nothing"
            raise DataError(f"the weights at {path} do not fit the model: {name} is {here}, the model has {wanted}")


_DRAWN = (torch.Tensor.normal_, nn.init.normal_)
_SCALED = (torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)


class _Sizes(TorchFunctionMode):
    """Leaves out values of new tensors: on the device meta there are none, and PyTorch would import its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or what only allocates in its place."""
        named = kwargs or {}
        if func in _DRAWN:
            return args[0] if args else named["tensor"]
        if func in _SCALED and isinstance(args[1], int | float):
            return args[0]
        if func is torch.linspace:
            return torch.empty(args[2])
        return (torch.empty if func is torch.randn else func)(*args, **named)


def _float_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype of the first floating-point tensor, in which the model was stored."""
    return next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
