"""Balancing of modalities: what keeps training from relying on the one that is easiest to learn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches
from equifuse.errors import InputError, UnknownNameError
from equifuse.model import FusionModel, LinearHead, ModelOutput
from equifuse.tasks import Task
from equifuse.tasks.base import needed

_REAL = (int, float)


class Balancer(nn.Module):
    """What training asks a method of balancing to do; this one leaves everything as it is.

    A method is a module beside the model: its parameters are trained along, its buffers go into the checkpoint, and
    neither becomes part of the stored model. Any fusion, any number of modalities from two on, and samples that lack
    some of them will do: a method sees the encoders' outputs, and the model as a function of some of the modalities.

    Attributes:
        name: by which it is asked for.
        tasks: those it is defined for; None for all.
    """

    name: ClassVar[str | None] = None
    tasks: ClassVar[tuple[str, ...] | None] = None

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make what depends on the model, before training.

        Raises:
            InputError: the method is not for this task, or there is nothing to balance.
        """

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Look at the model at the start of ``epoch``, counted from 0; ``train`` is in the order of that epoch."""

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What takes the place of a step's task loss.

        Args:
            model: in training mode.
            task: the task.
            batch: the step's samples.
            output: what the model made of them.
            loss: the task's, a scalar.

        Returns:
            The loss to minimise, and a number per modality for the history.
        """
        return loss, {}

    def after_backward(self, model: FusionModel) -> None:
        """Change the gradients of a step, just before they are used."""


class _Method(Balancer):
    """A balancer that does something, and therefore needs something to work on."""

    def prepare(self, model: FusionModel, task: Task) -> None:
        """See :meth:`Balancer.prepare`."""
        if self.tasks is not None and task.name not in self.tasks:
            raise InputError(f"balance {self.name!r} is for {', '.join(self.tasks)}, the task is {task.name}")
        if len(model.modalities) < 2:
            raise InputError(f"there is nothing to balance with a single modality, {model.modalities[0]!r}")
        if not any(parameter.requires_grad for parameter in model.encoders.parameters()):
            raise InputError(f"balance {self.name!r} acts on the encoders, and none of them learns; use encoder 'mlp'")


class OGMGE(_Method):
    """On-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022, arXiv 2203.15332).

    With the score ``s_m`` of a modality, the mean of :func:`scores` over the samples of the batch that have it, and
    ``ρ_m = s_m / mean_{j≠m} s_j`` (:func:`discrepancy`), the gradients ``g`` of the encoder of ``m`` become
    ``k_m g + ε`` with :func:`modulation` ``k_m = 1 − tanh(α ρ_m)`` where ``ρ_m > 1``, else 1 (their eq. 10), and ``ε``
    normal with the standard deviation of ``g``'s entries, tensor by tensor.

    The paper scores a modality by its share of the logits, which only a linear head on a sum or a concatenation has.
    Here it is scored by what the model predicts from that modality alone, in evaluation mode and without gradients:
    the same idea for any fusion, at the price of fusing each modality once more. For two modalities all else is the
    paper's (whose shares get half of the head's bias each; here it is all of it). The authors' code changes the weights
    of convolutions only, this all parameters of an encoder.

    AdamW, as used here, divides a gradient by its running size, the paper's SGD does not: a factor that stayed the
    same would have no effect; its changes from step to step do, and so does the noise.

    Args:
        alpha: ``α``, ≥ 0; tuned per data set in the paper, default 0.3.
        noise: whether to add ``ε``; default True.

    Recorded is ``k_m``, 1 for a modality that a batch lacks.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "ogm_ge"
    tasks: ClassVar[tuple[str, ...] | None] = ("classification", "multilabel", "regression")

    def __init__(self, *, alpha: float = 0.3, noise: bool = True) -> None:
        super().__init__()
        _check("alpha", alpha, _REAL, lambda a: 0 <= a < math.inf, "a number of at least 0")
        if not isinstance(noise, bool):
            raise InputError(f"noise must be true or false, got {noise!r}")
        self.alpha, self.noise = alpha, noise
        self._coefficients: dict[str, Tensor] = {}

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as it is; the coefficients of this step are found."""
        found = {}
        with _looking(model.fusion, model.head):
            for m, encoded, target in _alone(output.encoded, batch):
                prediction = model.head(model.fusion({m: encoded}).fused)
                found[m] = scores(task.name, prediction, target).mean()
        self._coefficients = {m: modulation(ratio, self.alpha) for m, ratio in _ratios(found).items()}
        return loss, {m: self._coefficients.get(m, loss.new_ones(())) for m in model.modalities}

    def after_backward(self, model: FusionModel) -> None:
        """Scale the encoders' gradients, and add noise."""
        for m, coefficient in self._coefficients.items():
            for parameter in model.encoders[m].parameters():
                if parameter.grad is not None:
                    parameter.grad = modulated(parameter.grad, coefficient, self.noise)


class PMR(_Method):
    """Prototypical modal rebalance (Fan et al. 2023, arXiv 2211.07089); for classification.

    A class's prototype is the mean of the encoder's outputs over its training samples (eq. 6), renewed at the start of
    each epoch as ``c ← ε c + (1 − ε) c_new`` (eq. 12). Minus the Euclidean distances to the prototypes are logits
    (eq. 7); ``s_m`` is the mean probability that they give to the true class, and ``ρ_m = s_m / mean_{j≠m} s_j``
    (eq. 8, :func:`discrepancy`). With the coefficients of :func:`rebalance` the loss becomes

    ``L + α Σ_m β_m L_m − μ Σ_m γ_m H_m``, ``β_m = clip(1/ρ_m − 1, 0, 1)``, ``γ_m = clip(ρ_m − 1, 0, 1)``,

    the cross-entropy ``L_m`` of those logits driving a slow modality, the entropy ``H_m`` of their softmax, in the
    first epochs only, holding back a dominant one (eqs. 9 to 11 and 13; for two modalities exactly those). A class
    that no sample seen so far has in a modality takes no part there.

    Args:
        alpha: ``α``, ≥ 0; paper 1 or 2, default 1.
        mu: ``μ``, ≥ 0; paper 1e-2 or 1e-3, default 1e-2.
        momentum: ``ε``, in [0, 1); default 0.2, as in the authors' code.
        entropy_epochs: number of epochs with the entropy, ≥ 0; the paper says "few", default 5.
        share: of the training part that the prototypes are taken from, in (0, 1]; default 1. The paper's 0.1 saves
            time with large encoders.

    Recorded is ``β_m``, 0 for a modality that a batch lacks.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "pmr"
    tasks: ClassVar[tuple[str, ...] | None] = ("classification",)

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        mu: float = 1e-2,
        momentum: float = 0.2,
        entropy_epochs: int = 5,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        _check("alpha", alpha, _REAL, lambda a: 0 <= a < math.inf, "a number of at least 0")
        _check("mu", mu, _REAL, lambda a: 0 <= a < math.inf, "a number of at least 0")
        _check("momentum", momentum, _REAL, lambda a: 0 <= a < 1, "in [0, 1)")
        _check("entropy_epochs", entropy_epochs, int, lambda n: n >= 0, "a whole number of at least 0")
        _check("share", share, _REAL, lambda a: 0 < a <= 1, "in (0, 1]")
        self.alpha, self.mu, self.momentum = alpha, mu, momentum
        self.entropy_epochs, self.share = entropy_epochs, share
        self.prototypes = nn.ModuleDict()
        self._epoch = 0

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make room for the prototypes."""
        super().prepare(model, task)
        outputs = _outputs(model)
        self.prototypes = nn.ModuleDict({m: Prototypes(outputs, width) for m, width in model.fusion.dims.items()})

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Renew the prototypes."""
        self._epoch = epoch
        sums = {m: torch.zeros_like(self._of(m).means) for m in model.modalities}
        counts = {m: total.new_zeros(len(total)) for m, total in sums.items()}
        with _looking(model):
            for batch in _first(train, self.share, model):
                encodings = model.encode(batch.inputs, batch.present, lengths=batch.lengths)
                for m, encoded, target in _alone(encodings, batch):
                    members = F.one_hot(target, len(counts[m])).to(encoded).T
                    sums[m] += members @ encoded
                    counts[m] += members.sum(1)
        for m, total in sums.items():
            self._of(m).renew(total, counts[m], self.momentum)

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with the terms of slow and of dominant modalities."""
        logits, labels = {}, {}
        for m, encoded, target in _alone(output.encoded, batch):
            own = self._of(m)
            placed = own.known[target]
            if placed.any():
                logits[m], labels[m] = own.logits(encoded[placed]), target[placed]
        found = {m: scores("classification", x.detach(), labels[m]).mean() for m, x in logits.items()}
        numbers = {m: loss.new_zeros(()) for m in model.modalities}
        for m, ratio in _ratios(found).items():
            faster, slower = rebalance(ratio)
            loss = loss + self.alpha * faster * F.cross_entropy(logits[m], labels[m])
            if self._epoch < self.entropy_epochs:
                loss = loss - self.mu * slower * entropy(logits[m])
            numbers[m] = faster
        return loss, numbers

    def _of(self, name: str) -> Prototypes:
        found = self.prototypes[name]
        assert isinstance(found, Prototypes)
        return found


class Prototypes(nn.Module):
    """One modality's class means ``(K, l)``.

    Args:
        classes: ``K``.
        width: ``l``.

    Attributes:
        means: ``(K, l)``.
        known: bool ``(K,)``, which classes have been seen.
    """

    means: Tensor
    known: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    def renew(self, sums: Tensor, counts: Tensor, momentum: float) -> None:
        """Take in new samples: sums ``(K, l)`` and counts ``(K,)`` by class; a class without any stays as it is."""
        here = counts > 0
        new = sums / counts.clamp(min=1)[:, None]
        kept = momentum * self.known.to(new)[:, None]
        self.means.copy_(torch.where(here[:, None], kept * self.means + (1 - kept) * new, self.means))
        self.known.logical_or_(here)

    def logits(self, encoded: Tensor) -> Tensor:
        """Minus the distances of ``(n, l)`` to the prototypes: ``(n, K)``, next to minus infinity where unknown."""
        distances = torch.cdist(encoded, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        # Not infinity, of which entropy has no gradient.
        return (-distances).masked_fill(~self.known, torch.finfo(distances.dtype).min)


class GradientBlending(_Method):
    """Gradient blending (Wang et al. 2020, arXiv 1905.12681), in its online form.

    Each modality gets a linear head of its own on its encoder's output. Minimised is ``(M + 1) Σ_k w_k L_k`` over the
    task's losses ``L_k`` of these heads and of the model itself, the weights summing to 1; the factor leaves the
    model's own loss and the fusion's regularisers in their relation while the weights are equal, as they are at first.

    Every ``every`` epochs all losses are measured on the training and the validation part. With the generalisation
    ``G_k``, by how much the validation loss has fallen since the last time, and the overfitting ``O_k``, by how much
    the gap between the two has grown, ``w_k ∝ G_k / O_k²`` (:func:`blending_weights`).

    The paper estimates ``G_k`` and ``O_k`` from extra trainings of every head alone, from the weights of the moment;
    here they are those of the joint training, which costs no more than looking. The validation part decides on the
    weights as well as on the best epoch; the test part remains unseen. With few validation samples ``O_k`` is mostly
    chance, and so are the weights.

    Args:
        every: epochs between estimates, ≥ 1; default 5.

    Recorded is ``w_m``; that of the model itself is the rest to 1.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "gradient_blending"
    tasks: ClassVar[tuple[str, ...] | None] = ("classification", "multilabel", "regression", "survival")
    weights: Tensor
    losses: Tensor

    def __init__(self, *, every: int = 5) -> None:
        super().__init__()
        _check("every", every, int, lambda n: n >= 1, "a whole number of at least 1")
        self.every = every
        self.heads = nn.ModuleDict()

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make the heads; like the model's own, they start from its bias, the mean of the targets in regression."""
        super().prepare(model, task)
        for m, width in model.fusion.dims.items():
            head = LinearHead(width, _outputs(model))
            if isinstance(model.head, LinearHead):
                head.linear.bias.data.copy_(model.head.linear.bias.data)
            self.heads[m] = head
        count = len(self.heads) + 1
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("losses", torch.full((2, count), math.nan))

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Measure the losses, and weigh them anew, where it is time to."""
        if epoch % self.every:
            return
        now = torch.stack([self._measured(model, task, batches) for batches in (train, val)])
        weights = blending_weights(*progress(self.losses, now))
        if weights is not None:
            self.weights.copy_(weights)
        self.losses.copy_(now)

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The blend of all losses; a modality that the batch lacks is left out."""
        numbers = dict(zip(self.heads, self.weights, strict=False))
        total = self.weights[-1] * loss
        for m, encoded, target in _alone(output.encoded, batch):
            total = total + numbers[m] * task.loss(self.heads[m](encoded), target)
        return len(self.weights) * total, numbers

    def _measured(self, model: FusionModel, task: Task, batches: Batches) -> Tensor:
        """Losses ``(M + 1,)`` of the heads and of the model on a part; NaN for a modality that no sample has."""
        predictions: list[list[Tensor]] = [[] for _ in self.weights]
        targets: list[list[Tensor]] = [[] for _ in self.weights]
        place = {m: number for number, m in enumerate(self.heads)}
        with _looking(model, self):
            for batch in _first(batches, 1.0, model):
                # Without the samples' numbers: a cache of equilibria is for the steps of training.
                output = model(batch.inputs, batch.present, lengths=batch.lengths)
                for m, encoded, target in _alone(output.encoded, batch):
                    predictions[place[m]].append(self.heads[m](encoded))
                    targets[place[m]].append(target)
                predictions[-1].append(output.prediction)
                targets[-1].append(needed(batch.target))
            each = [
                task.loss(torch.cat(x), torch.cat(y)) if x else self.weights.new_tensor(math.nan)
                for x, y in zip(predictions, targets, strict=True)
            ]
        return torch.stack(each)


BALANCERS: dict[str, type[Balancer]] = {str(kind.name): kind for kind in (OGMGE, PMR, GradientBlending)}


def make_balancer(name: str | None, options: Mapping[str, Any]) -> Balancer:
    """A balancer by name; None gives the one that does nothing.

    Args:
        name: ``"ogm_ge"``, ``"pmr"``, ``"gradient_blending"`` or None.
        options: as the class has them.

    Raises:
        UnknownNameError: no such balancer, or an option that it does not have.
        InputError: options without a balancer, or a value out of range.
    """
    if name is None:
        if options:
            raise InputError(f"balance_options go with balance: {', '.join(BALANCERS)}")
        return Balancer()
    if not isinstance(name, str) or name not in BALANCERS:
        raise UnknownNameError("balance", str(name), BALANCERS)
    known = list(inspect.signature(BALANCERS[name]).parameters)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of balance {name!r}:", str(option), known)
    return BALANCERS[name](**options)


def scores(task: str, prediction: Tensor, target: Tensor) -> Tensor:
    """How well each sample is predicted, ``(n,)`` in [0, 1].

    Args:
        task: ``"classification"``: the probability of the true class; ``"multilabel"``: that of the true value of each
            label, on average; ``"regression"``: ``1 / (1 + e²)``, ``e²`` the squared error in variances of the given
            targets, on average over the targets, so that the mean of the targets scores about ½.
        prediction: raw outputs ``(n, K)``.
        target: int64 ``(n,)``, or ``(n, K)``.
    """
    if task == "classification":
        return torch.softmax(prediction, dim=-1).gather(1, target[:, None]).squeeze(1)
    if task == "multilabel":
        return torch.sigmoid(torch.where(target > 0.5, prediction, -prediction)).mean(dim=-1)
    variance = target.var(0, correction=0).clamp(min=torch.finfo(target.dtype).eps)
    return 1 / (1 + ((prediction - target) ** 2 / variance).mean(dim=-1))


def discrepancy(score: Tensor) -> Tensor:
    """Each of the scores ``(M,)`` over the mean of the others; 1 where there are none."""
    count = len(score)
    if count < 2:
        return torch.ones_like(score)
    others = (1 - torch.eye(count, dtype=score.dtype, device=score.device)) @ score / (count - 1)
    return score / others.clamp(min=torch.finfo(score.dtype).tiny)


def modulation(ratio: Tensor, alpha: float) -> Tensor:
    """OGM-GE's coefficient of a modality's gradients: ``1 − tanh(α ρ)`` where ``ρ > 1``, else 1."""
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(gradient: Tensor, coefficient: Tensor, noise: bool) -> Tensor:
    """A gradient times its coefficient, with noise of the standard deviation of the gradient's own entries if asked."""
    scaled = coefficient * gradient
    if noise and gradient.numel() > 1:
        scaled += gradient.std() * torch.randn_like(gradient)
    return scaled


def rebalance(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """PMR's coefficients of a modality: of acceleration, ``clip(1/ρ − 1, 0, 1)``, and of restraint, of ``ρ − 1``."""
    return (1 / ratio - 1).clamp(0, 1), (ratio - 1).clamp(0, 1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of ``(n, K)`` in nats, the mean over the samples."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def progress(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient blending's measures between two times, from losses ``(2, K)`` on the training and validation part.

    Returns:
        Generalisation, by how much the validation losses have fallen, and overfitting, by how much the gaps between
        the parts have grown: ``(K,)`` each.
    """
    gap_before, gap_now = before[1] - before[0], now[1] - now[0]
    return before[1] - now[1], gap_now - gap_before


def blending_weights(generalisation: Tensor, overfitting: Tensor, floor: float = 0.1) -> Tensor | None:
    """The optimal blend ``w_k ∝ G_k / O_k²`` (Wang et al. 2020, proposition 1 and algorithm 1).

    A loss without progress (``G_k`` not positive, or unknown) gets no weight: the paper's derivation does not cover
    it. One estimate of ``O_k`` can be 0 by chance, which would leave all weight to one loss.

    Args:
        generalisation: ``G`` ``(K,)``.
        overfitting: ``O`` ``(K,)``.
        floor: an ``|O_k|`` below this share of the largest counts as that share.

    Returns:
        ``(K,)``, summing to 1; None where no loss made progress.
    """
    gain = generalisation.nan_to_num(0.0).clamp(min=0)
    size = overfitting.nan_to_num(0.0).abs()
    largest = size.max()
    relative = (size / largest).clamp(min=floor) if bool(largest > 0) else torch.ones_like(size)
    weights = gain / relative**2
    return weights / weights.sum() if bool(weights.sum() > 0) else None


def _ratios(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`discrepancy` of scores by modality."""
    if not found:
        return {}
    return dict(zip(found, discrepancy(torch.stack(list(found.values()))), strict=True))


def _alone(encoded: Mapping[str, Tensor], batch: Batch) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each modality that is there at all: its name, and encodings ``(n, l_m)`` and targets of those who have it."""
    target = needed(batch.target)
    for m, values in encoded.items():
        mask = batch.present.get(m)
        if mask is None:
            yield m, values, target
        elif mask.any():
            yield m, values[mask], target[mask]


def _first(batches: Batches, share: float, model: FusionModel) -> Iterator[Batch]:
    """The first batches, until they make up a share of the samples, where the model is."""
    device, seen = next(model.parameters()).device, 0
    for batch in batches:
        yield batch.to(device)
        seen += len(batch)
        if seen >= share * batches.rows:
            return


@contextmanager
def _looking(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients: nothing is drawn, stored or recorded."""
    modes = [module.training for module in modules]
    try:
        with torch.no_grad():
            for module in modules:
                module.eval()
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def _outputs(model: FusionModel) -> int:
    if model.n_outputs is None:
        raise InputError("balancing needs a model made by build_model, which knows its number of outputs")
    return model.n_outputs


def _check(name: str, value: Any, kind: Any, fits: Callable[[Any], bool], expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise InputError(f"{name} must be {expected}, got {value!r}")
