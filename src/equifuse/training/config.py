"""Everything that determines a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from equifuse.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class TrainConfig:
    """A training run, resolved; stored as ``config.yaml`` in the run folder.

    Attributes:
        data: name or path of the data set.
        fusion: name of the fusion.
        fusion_options: its options.
        encoder: "mlp" or "identity".
        hidden: widths of the MLP encoders' layers.
        dropout: of the MLP encoders, in [0, 1).
        head_dropout: before the head, in [0, 1).
        clip: bound on standardised inputs, None for none.
        embedding: output width for retrieval.
        task_options: options of the task.
        seed: of weights, shuffling, dropout, and the validation split where the set has none.
        val_fraction: of the training part, where the set has no validation part.
        epochs: at most.
        batch_size: rows per step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW, on matrices.
        patience: epochs without a better validation loss before stopping.
        modality_dropout: probability of taking a modality from a training row, in [0, 1).
        gradient_clip: largest gradient norm, 0 for none.
        accelerator: "cpu", "gpu" or "auto".

    Raises:
        InputError: a value out of range.
    """

    data: str
    fusion: str = "deq"
    fusion_options: dict[str, Any] = field(default_factory=dict)
    encoder: str = "mlp"
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.3
    head_dropout: float = 0.0
    clip: float | None = 5.0
    embedding: int = 64
    task_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    val_fraction: float = 0.2
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 15
    modality_dropout: float = 0.0
    gradient_clip: float = 1.0
    accelerator: str = "cpu"

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "patience": self.patience >= 1,
            "embedding": self.embedding >= 1,
            "lr": self.lr > 0,
            "weight_decay": self.weight_decay >= 0,
            "gradient_clip": self.gradient_clip >= 0,
            "modality_dropout": 0 <= self.modality_dropout < 1,
            "val_fraction": 0 < self.val_fraction < 1,
            "seed": 0 <= self.seed < 2**32,
        }
        for name, fits in checks.items():
            if not fits:
                raise InputError(f"{name} is out of range: {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to YAML."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From plain values.

        Raises:
            UnknownNameError: a key that does not exist.
            InputError: a value out of range or of the wrong kind.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise UnknownNameError("setting", str(key), known)
        if "data" not in values:
            raise InputError("the configuration does not say which data to use")
        prepared = dict(values)
        if "hidden" in prepared:
            hidden = prepared["hidden"]
            prepared["hidden"] = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        try:
            return cls(**prepared)
        except TypeError as error:
            raise InputError(f"a setting is of the wrong kind: {error}") from None
