"""Multimodal dynamics: which features and which modalities are informative for a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput, masked_mean
from equifuse.fusion.decision import check_outputs, check_weights, over_modalities, unimodal
from equifuse.fusion.make import backend_config, make_backend, register


@dataclass
class _DynamicsOutput(FusionOutput):
    """A fusion output together with that of the backend, which the backend's losses need."""

    joint: FusionOutput | None = None


@register
class MMDynamics(Fusion):
    """Multimodal dynamics: a gate for each feature and a learned confidence for each modality, sample by sample.

    For classification, if you want to know which modality a prediction relies on: ``out.confidence`` estimates the
    probability that a modality alone would be right.

    >>> fusion = ef.fusion.MMDynamics({"mrna": 100, "meth": 80}, outputs=3, dim=32)
    >>> out = fusion({"mrna": torch.randn(8, 100), "meth": torch.randn(8, 80)})
    >>> out.fused.shape, sorted(out.confidence)
    (torch.Size([8, 3]), ['meth', 'mrna'])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes ``K``; default 2, set by :func:`equifuse.build_model`.
        dim: width of the ``h_m``; default 128.
        dropout: rate of the ``h_m``, in [0, 1); default 0.5, as in the published code.
        backend: any fusion of the ``p_m h_m`` (a Fusion built for the width ``dim`` of each, or the name of one), or
            None (default) for the paper's classifier.
        backend_options: options for a backend given by name.
        sparsity_weight: default weight of the ``sparsity`` loss, ≥ 0; default 1.
        unimodal_weight: default weight of the ``unimodal`` loss, ≥ 0; default 1.
        confidence_weight: default weight of the ``confidence`` loss, ≥ 0; default 1.

    An absent modality adds nothing to the concatenation, and the backend gets a mask for it. If nothing is present the
    logits are 0. ``modalities`` are those of the backend, or the ``p_m h_m`` without one; ``decisions`` are the
    ``f_m``, ``confidence`` the ``p_m``.

    Raises:
        UnknownNameError: no fusion has the name ``backend``.
        InputError: a value is out of range, or the backend has other widths, is for other tasks, or has losses of the
            same names.

    Formula (Han et al. 2022, CVPR, "Dynamical Fusion for Trustworthy Multimodal Classification"): for each modality
    gates ``w_m = σ(W_m x_m + b_m)``, features ``h_m = dropout(ReLU(E_m (w_m ⊙ x_m) + e_m))``, a decision
    ``f_m = C_m h_m + c_m``, and its confidence ``p_m = P_m h_m + q_m``, a number that is trained to be the probability
    of the true class. A joint affine classifier of ``[p_1 h_1, …, p_M h_M]`` gives the logits ``fused``. With a
    backend, ``fused`` is the backend's result instead, and a head follows it unless the backend decides itself; this is
    how deep-equilibrium fusion replaces concatenation in its paper (Ni et al. 2023, arXiv 2306.16645). For a comparison
    under the same head use ``backend="deq"`` and ``backend="concat"``. The losses, summed over modalities, each over
    the samples that have the modality:

    - ``sparsity``: mean of the gates ``w_m`` over the features;
    - ``unimodal``: cross-entropy of ``f_m`` against the target;
    - ``confidence``: ``(p_m − softmax(f_m)_y)²``, where the probability passes no gradient.

    Deviations: in the published code this probability passes a gradient. In the published code of deep-equilibrium
    fusion the confidences scale only the start of the fusion state; here they scale all inputs of the backend.
    """

    name: ClassVar[str] = "mm_dynamics"
    tasks = ("classification",)

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        dim: int = 128,
        dropout: float = 0.5,
        backend: Fusion | str | None = None,
        backend_options: Mapping[str, Any] | None = None,
        sparsity_weight: float = 1.0,
        unimodal_weight: float = 1.0,
        confidence_weight: float = 1.0,
    ) -> None:
        super().__init__(dims)
        check_outputs(outputs)
        if dim < 1 or not 0 <= dropout < 1:
            raise InputError(f"dim must be at least 1 and dropout in [0, 1), got {dim} and {dropout}")
        self.outputs, self.dim, self.rate = outputs, dim, dropout
        self.weights = check_weights(sparsity=sparsity_weight, unimodal=unimodal_weight, confidence=confidence_weight)
        self.gates = nn.ModuleDict({m: nn.Linear(width, width) for m, width in self.dims.items()})
        self.encode = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in self.dims.items()})
        self.decide = nn.ModuleDict({m: nn.Linear(dim, outputs) for m in self.dims})
        self.trust = nn.ModuleDict({m: nn.Linear(dim, 1) for m in self.dims})
        self.dropout = nn.Dropout(dropout)
        self.backend = make_backend(backend, backend_options, dict.fromkeys(self.dims, dim), "mm_dynamics")
        self.loss_weights = {"sparsity": sparsity_weight}
        self.target_loss_weights = {"unimodal": unimodal_weight, "confidence": confidence_weight}
        if self.backend is None:
            self.classifier = nn.Linear(len(self.dims) * dim, outputs)
            self.decides, self.out_dim = True, outputs
        else:
            self._check(self.backend)
            self.decides, self.out_dim = self.backend.decides, self.backend.out_dim
            self.loss_weights |= self.backend.loss_weights
            self.target_loss_weights |= self.backend.target_loss_weights

    def _check(self, backend: Fusion) -> None:
        if backend.tasks is not None and not set(self.tasks) <= set(backend.tasks):
            raise InputError(f"mm_dynamics classifies, its backend is for {', '.join(backend.tasks)}")
        if backend.decides and backend.out_dim != self.outputs:
            raise InputError(
                f"the backend has {backend.out_dim} outputs, mm_dynamics {self.outputs}; give both the same"
            )
        for label in (*backend.loss_weights, *backend.target_loss_weights):
            if label in self.weights:
                raise InputError(f"the backend has a loss named {label!r} as mm_dynamics has; choose another backend")

    def current_options(self) -> dict[str, Any]:
        """The backend by name and options, whatever it was given as."""
        return {**super().current_options(), **backend_config(self.backend)}

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Logits ``(R, K)``, or the backend's state, from rows ``(R, l_m)``."""
        scaled, decisions, confidence = {}, {}, {}
        sparsity = rows.like.new_zeros(())
        for m, x in rows.values.items():
            mask = rows.masks[m]
            gate = torch.sigmoid(self.gates[m](x))
            h = self.dropout(F.relu(self.encode[m](gate * x)))
            sure = self.trust[m](h)
            scaled[m], decisions[m], confidence[m] = (
                v if mask is None else torch.where(mask, v, 0.0) for v in (sure * h, self.decide[m](h), sure)
            )
            sparsity = sparsity + masked_mean(gate.mean(1, keepdim=True), mask)
        features = FlatInputs(scaled, rows.masks, rows.count, rows.index)
        joint = self.backend.fuse(features) if self.backend else self._classify(features)
        return _DynamicsOutput(
            joint.fused,
            joint.modalities,
            {**joint.losses, "sparsity": sparsity},
            joint.stats,
            decisions,
            confidence,
            joint,
        )

    def _classify(self, rows: FlatInputs) -> FusionOutput:
        parts = {m: rows.values.get(m, rows.like.new_zeros(rows.count, self.dim)) for m in self.dims}
        logits = self.classifier(torch.cat(list(parts.values()), dim=1))
        someone = torch.stack([rows.mask(m) for m in rows.values]).any(0)
        return FusionOutput(torch.where(someone, logits, 0.0), parts)

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``unimodal`` and ``confidence``, and those of the backend; see the class docstring."""
        errors = {}
        for m, logits in output.decisions.items():
            truth = torch.softmax(logits.detach(), dim=1).gather(1, target[:, None])
            errors[m] = (output.confidence[m] - truth).square().squeeze(1)
        found = {
            "unimodal": unimodal(output, target, present),
            "confidence": over_modalities(errors, present),
        }
        if self.backend and isinstance(output, _DynamicsOutput) and output.joint is not None:
            found |= self.backend.target_losses(output.joint, target, present)
        return found
