"""Everything that decides a training run, in one place, from keywords, a YAML file, or a stored run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from equifuse.data import SourceOptions
from equifuse.encoders import ENCODERS
from equifuse.errors import InputError, UnknownNameError
from equifuse.files import read_yaml
from equifuse.fusion import fusion_options
from equifuse.training.balancing import make_balancer
from equifuse.training.protocol import CLEAN, PROTOCOLS

# The part of a run's config.yaml that records what happened, as against what was asked for.
RECORD = "run"
_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Args:
        data: name or path of a data set.
        fusion: name of a fusion.
        dim: the fusion's common width (of the backend, for GMF with one), or None for the fusion's default.
        backend: for ``gmf`` and ``mm_dynamics``: name of the fusion behind it, or None for concatenation.
        fusion_options: further options of the fusion.
        source: which columns of a table are what: ``modalities``, ``target``, ``id``, ``split``, ``task``; see
            :class:`equifuse.data.SourceOptions`.
        encoder: ``"mlp"``, ``"identity"``, for sequences ``"mean"``, ``"max"``, ``"attention"``, ``"gru"``,
            ``"transformer"`` or ``"queries"``, or ``"auto"``: ``"attention"`` where sequences are padded, else
            ``"mlp"``.
        hidden: widths of the MLP encoders' layers; the last is that of any encoder's output.
        dropout: dropout of the encoders' hidden layers, in [0, 1).
        input_dropout: dropout of the MLP encoders' input features, in [0, 1).
        head_dropout: dropout before the head, in [0, 1).
        embedding: width of the embedding of a retrieval model.
        label_smoothing: for classification, in [0, 1).
        class_weights: for classification: factors of the classes in the loss, or ``"balanced"``: inversely to their
            frequency in the training part.
        task_options: further options of the task, such as ``focal``, ``loss`` or ``sentiment``.
        modality_dropout: probability with which each modality of each training sample is hidden, in [0, 1); one that
            the sample has is always kept. Off by default.
        balance: what balances the modalities during training: ``"ogm_ge"``, ``"pmr"``, ``"gradient_blending"``, or
            None; see :mod:`equifuse.training.balancing`.
        balance_options: its options.
        warm_start: start each solve of an equilibrium from where the same sample's ended an epoch before. A resumed run
            starts cold, so its numbers agree with an uninterrupted run's up to the solver's tolerance only.
        seed: of the initial weights, the order of the samples, dropout, and a split that the data set does not have.
        epochs: most passes over the training part, ≥ 1.
        patience: epochs without a better validation loss after which training stops, ≥ 1.
        batch_size: samples per step, ≥ 1.
        lr: AdamW's learning rate, > 0.
        weight_decay: AdamW's, ≥ 0; biases and the gains of norms are not decayed.
        val_fraction: share of the training part held out where the data set has no validation part, in (0, 1).
        accelerator: ``"cpu"``, ``"gpu"`` or ``"auto"``.
        devices: processes that train one model on each machine, each with batches of ``batch_size``, ≥ 1; under
            ``torchrun`` or Slurm as many as were started.
        nodes: machines, ≥ 1.
        strategy: how several processes train: ``"ddp"`` (``"auto"``: the same) keeps the whole model in each,
            ``"fsdp"`` shares it out, on GPUs only.
        accumulate: batches whose gradients are taken together for one step, ≥ 1.
        precision: ``"32"``, or ``"bf16"`` for mixed precision; fixed points keep the precision their tolerance needs.
        protocol: ``"clean"``: the best epoch by validation loss, early stopping, measured on test once. ``"loose"``:
            trained on train and validation for all epochs, and the best epoch *on test* is reported, as the codes
            behind many published figures do; only to compare with those. Everything such a run writes says so.

    Raises:
        UnknownNameError: an unknown fusion, encoder, balance, accelerator, protocol, strategy or precision.
        InputError: a value of the wrong type or out of range.
    """

    data: str
    fusion: str = "deq"
    dim: int | None = None
    backend: str | None = None
    fusion_options: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    encoder: str = "auto"
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.3
    input_dropout: float = 0.0
    head_dropout: float = 0.0
    embedding: int = 64
    label_smoothing: float = 0.0
    class_weights: str | list[float] | None = None
    task_options: dict[str, Any] = field(default_factory=dict)
    modality_dropout: float = 0.0
    balance: str | None = None
    balance_options: dict[str, Any] = field(default_factory=dict)
    warm_start: bool = False
    seed: int = 0
    epochs: int = 100
    patience: int = 15
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    val_fraction: float = 0.2
    accelerator: str = "cpu"
    protocol: str = CLEAN
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    accumulate: int = 1
    precision: str = "32"

    def __post_init__(self) -> None:
        given: Any = self.hidden  # YAML gives a number or a list
        hidden = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        object.__setattr__(self, "hidden", hidden)
        for name in ("embedding", "epochs", "patience", "batch_size", "devices", "nodes", "accumulate"):
            self._check(name, int, lambda v: v >= 1, "a whole number of at least 1")
        self._check("seed", int, lambda v: 0 <= v < 2**31, "a whole number of at least 0 and below 2^31")
        for name in ("dropout", "input_dropout", "head_dropout", "label_smoothing", "modality_dropout"):
            self._check(name, (int, float), lambda v: 0 <= v < 1, "in [0, 1)")
        self._check("val_fraction", (int, float), lambda v: 0 < v < 1, "between 0 and 1")
        self._check("lr", (int, float), lambda v: 0 < v < math.inf, "a positive number")
        self._check("weight_decay", (int, float), lambda v: 0 <= v < math.inf, "a number of at least 0")
        if not isinstance(self.warm_start, bool):
            raise InputError(f"warm_start must be true or false, got {self.warm_start!r}")
        if self.dim is not None:
            self._check("dim", int, lambda v: v >= 1, "a whole number of at least 1")
        if not all(isinstance(width, int) and width >= 1 for width in hidden) or not hidden:
            raise InputError(f"hidden must list whole numbers of at least 1, got {self.hidden}")
        for name in ("fusion_options", "task_options", "balance_options", "source"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        object.__setattr__(self, "source", SourceOptions.of(self.source).given())
        weights: Any = self.class_weights
        listed = isinstance(weights, list) and all(isinstance(w, (int, float)) and w >= 0 for w in weights)
        if weights is not None and weights != "balanced" and not listed:
            raise InputError(f"class_weights must be 'balanced' or numbers of at least 0, got {weights!r}")
        object.__setattr__(self, "precision", str(self.precision))  # YAML gives a number
        for name in ("data", "fusion", "encoder", "accelerator", "protocol", "strategy"):
            self._check(name, str, bool, "a name")
        for kind, value, known in (
            ("encoder", self.encoder, ENCODERS),
            ("accelerator", self.accelerator, ("cpu", "gpu", "auto")),
            ("protocol", self.protocol, PROTOCOLS),
            ("strategy", self.strategy, ("auto", "ddp", "fsdp")),
            ("precision", self.precision, ("32", "bf16")),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        self.resolved_fusion_options()
        make_balancer(self.balance, self.balance_options)

    def _check(self, name: str, kind: Any, fits: Any, expected: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
            raise InputError(f"{name} must be {expected}, got {value!r}")

    def resolved_fusion_options(self) -> dict[str, Any]:
        """The fusion's options with ``dim`` and ``backend`` put where the fusion expects them.

        Raises:
            UnknownNameError: an unknown fusion or backend.
            InputError: the fusion has no use for ``dim`` or ``backend``, or an option is given twice.
        """
        known = fusion_options(self.fusion)
        options = dict(self.fusion_options)
        for name in options:
            if name not in known:
                raise UnknownNameError(f"option of fusion {self.fusion!r}:", name, known)
        backend = self.backend or options.get("backend")
        given = {"backend": self.backend, "dim": self.dim}
        for name, value in given.items():
            if value is not None and name in options:
                raise InputError(f"{name} is given twice: {value!r}, and {options[name]!r} in fusion_options")
        if self.backend is not None:
            if "backend" not in known:
                raise InputError(f"fusion {self.fusion!r} takes no backend; use fusion 'gmf' with it")
            fusion_options(self.backend)
            options["backend"] = self.backend
        if self.dim is not None:
            if "dim" in known:
                options["dim"] = self.dim
            elif isinstance(backend, str) and "dim" in fusion_options(backend):
                options["backend_options"] = {"dim": self.dim, **(options.get("backend_options") or {})}
            else:
                raise InputError(
                    f"fusion {self.fusion!r} has no option 'dim'" + (" without a backend" * ("backend" in known))
                )
        return options

    def to_dict(self) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` reads them back."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A configuration from plain values.

        Raises:
            UnknownNameError: a key that is none, naming the nearest one.
            InputError: ``data`` is missing, or a value does not fit.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise UnknownNameError("option", str(key), known)
        if values.get("data") is None:
            raise InputError("no data set given: pass its name or path as data")
        return cls(**values)

    @classmethod
    def from_options(
        cls,
        file: Path | None,
        options: Mapping[str, Any],
        settings: list[str] | None = None,
        task_settings: list[str] | None = None,
        balance_settings: list[str] | None = None,
    ) -> TrainConfig:
        """A configuration from a YAML file, overridden by options, overridden by ``key=value`` settings.

        Args:
            file: YAML file of options (a run's ``config.yaml`` will do), or None.
            options: options by name; None means not given.
            settings: ``"key=value"`` each, for ``fusion_options``; values are YAML, dots in keys nest.
            task_settings: likewise for ``task_options``.
            balance_settings: likewise for ``balance_options``.

        Raises:
            DataError: the file is missing or is not YAML.
            UnknownNameError: an unknown key.
            InputError: a value does not fit.
        """
        values = read_config(file) if file is not None else {}
        values |= {name: value for name, value in options.items() if value is not None}
        for name, given in (
            ("fusion_options", settings),
            ("task_options", task_settings),
            ("balance_options", balance_settings),
        ):
            if given:
                values[name] = {**(values.get(name) or {}), **parse_settings(given)}
        return cls.from_dict(values)


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file, without the record of a run.

    Raises:
        DataError: the file is missing or is not a YAML mapping.
    """
    return {key: _numbers(value) for key, value in read_yaml(path).items() if key != RECORD}


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """A mapping from ``"key=value"`` settings: values are YAML, dots in keys nest.

    Raises:
        InputError: one cannot be read.
    """
    import yaml  # noqa: PLC0415

    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"expected key=value, got {setting!r}")
        try:
            value = _numbers(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"cannot read the value of {setting!r}") from None
        *path, last = key.strip().split(".")
        place = parsed
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise InputError(f"{setting!r}: {step!r} already has a value")
        place[last] = value
    return parsed


def _numbers(value: Any) -> Any:
    """YAML takes ``1e-3`` for a string; it is a number here."""
    if isinstance(value, dict):
        return {key: _numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value
