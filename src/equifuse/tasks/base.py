"""What a task is: a loss, metrics, and how raw outputs are read; and the batch it works on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel, LinearHead, ModelOutput
from equifuse.registry import METRICS
from equifuse.solve.sync import is_recorded
from equifuse.tasks.evaluated import Evaluation, join, joined, result_of
from equifuse.tasks.linear import LinearFit
from equifuse.tasks.metrics import LOSS, Measurement, Metric
from equifuse.tasks.targets import Targets
from equifuse.tasks.teaching import SoftTargets

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
OF_CLASSES = ("probability", "log_probability", "logit")
_PREFIX = "val_"


class Task(ABC):
    """Loss, targets, metrics and reading of raw outputs ``(n, K)``.

    A task of one's own is a subclass with a ``name``, registered by ``@equifuse.registry.TASKS.register`` or by an
    entry point of the group ``equifuse.tasks``. It needs :meth:`loss` and :meth:`predict`, ``targets``, ``headline``
    and ``measures``; all else has a default, which says that the task has nothing of the kind.

    Example:
        >>> import torch
        >>> from equifuse.tasks import Metric, Quantities, Task
        >>> class Counts(Task):
        ...     "Poisson regression: raw outputs are logarithms of rates."
        ...     name, targets, headline = "counts", Quantities(), "error"
        ...     measures = (Metric("error", lambda p, y: abs(p - y).mean(), higher_is_better=False),)
        ...     def loss(self, prediction, target, weight=None):
        ...         return torch.nn.functional.poisson_nll_loss(prediction, target)
        ...     def readable(self, prediction, target):
        ...         return prediction.exp().double().numpy(), target.double().numpy()
        ...     def predict(self, prediction):
        ...         return {"prediction": prediction.exp()[:, 0].numpy()}
        >>> Counts().metrics(torch.zeros(2, 1), torch.ones(2, 1))
        {'error': 0.0}

    Args:
        classes: names of the outputs, or None.

    Attributes:
        name: by which it is asked for.
        targets: what its targets are: how they are read, checked and counted.
        measures: the metrics that every evaluation has, in their order; beside them those of :meth:`choose_metrics`.
        headline: the metric shown where there is room for one.
        monitor: the validation metric that early stopping watches; ``"loss"`` is the task's own.
        least_modalities: how many modalities a sample needs for the task to mean anything.
        hidden_at_rates: whether hiding modalities of single samples makes it harder, as a test condition should.
        embeds: whether outputs are an embedding, of a width that is chosen, and not one for each class or target.
        output_name: what the raw outputs of an exported model are called.
        values: what of a sample's output can be explained, the default first: ``"probability"``, ``"log_probability"``,
            ``"logit"``, or ``"output"`` in the target's own units; empty where no output stands alone.
        predicts_quantities: whether outputs are quantities, in the targets' own units.
        predicts_largest: whether the largest output is the one predicted, and explained where none is named.
        time_to_event: whether targets are times and events, of which there are survival curves.
        conformal: kind of conformal prediction: ``"sets"`` of classes, ``"intervals"`` about values, or None.
        finds_boxes: whether outputs are boxes in scenes, which can be drawn.
        own_model: whether modalities are encoded as they are, and outputs made, by modules of the task's own:
            :meth:`own_encoders` and :meth:`own_head`.
        resamples: whether metrics are quick enough for intervals, which measure hundreds of times.
        learns: what of the loss is trained along, or None.
        mixes_samples: whether a sample between two others means something: its loss is that of both their targets, in
            the same shares. By default it does not.
        teacher: what a student is trained on beside the targets; None for no student.
        drawn_as: the plot that shows its predictions: ``"roc"``, ``"precision_recall"``, ``"predicted_against_true"``,
            ``"survival_curves"``; "" for none.
        without_features: what is predicted from the training targets alone, in words.
    """

    name: ClassVar[str]
    targets: ClassVar[Targets]
    measures: tuple[Metric, ...] = ()
    headline: str
    monitor: str = "loss"
    least_modalities: ClassVar[int] = 1
    hidden_at_rates: ClassVar[bool] = True
    embeds: ClassVar[bool] = False
    output_name: ClassVar[str] = "prediction"
    values: ClassVar[tuple[str, ...]] = ()
    predicts_quantities: ClassVar[bool] = False
    predicts_largest: ClassVar[bool] = False
    time_to_event: ClassVar[bool] = False
    conformal: ClassVar[Literal["sets", "intervals"] | None] = None
    finds_boxes: ClassVar[bool] = False
    own_model: ClassVar[bool] = False
    resamples: ClassVar[bool] = True
    learns: nn.Module | None = None
    mixes_samples: bool = False
    teacher: SoftTargets | None = None
    drawn_as: ClassVar[str] = ""
    without_features: ClassVar[str] = "the training targets alone"
    _asked: tuple[str, ...] = ()

    def __init__(self, classes: tuple[str, ...] | None = None) -> None:
        self.classes = classes

    @classmethod
    def infers(cls, values: NDArray[Any]) -> bool:
        """Whether columns of a table ``(n, K)``, numbers or text, are plainly targets of this task where none is named.

        Of all tasks only one may say yes of the same columns, so a task of one's own had better say no, as by default.
        """
        return False

    @classmethod
    def recognizes(cls, values: NDArray[Any], names: Sequence[str]) -> bool:
        """Whether values and names of columns say that they are targets of this task; it goes before :meth:`infers`."""
        return False

    @classmethod
    def own_encoders(cls, shapes: Mapping[str, tuple[int, ...]], width: int) -> Mapping[str, nn.Module]:
        """Encoders by modality, of a task with ``own_model``; those it leaves out are encoded as usual.

        Args:
            shapes: modality name -> shape of one sample.
            width: of their outputs.
        """
        return {}

    @classmethod
    def own_head(cls, in_dim: int, n_outputs: int) -> nn.Module:
        """The head of a task with ``own_model``; by default the usual one."""
        return LinearHead(in_dim, n_outputs)

    @classmethod
    def units(
        cls, target: NDArray[Any], names: tuple[str, ...] | None = None, weight: NDArray[Any] | None = None
    ) -> tuple[Floats, Floats] | None:
        """What outputs are counted in: scale and shift, both ``(K,)``, or None where they have no units, as of classes.

        An untrained model's outputs are about the shift, and errors count in the scale.

        Args:
            target: of the training part.
            names: of the outputs.
            weight: what each sample counts, or None.
        """
        return None

    @classmethod
    def linear_fits(
        cls, features: list[Floats], target: NDArray[Any] | None, weight: Floats | None = None
    ) -> list[LinearFit]:
        """Linear models of several strengths, which any fusion has to beat: the method ``linear``.

        Args:
            features: of each modality ``(n, l)``, standardised; 0 where missing. Then ``(n, M)``, 1 where missing.
            target: of the training part.
            weight: what each of its samples counts, or None.

        Raises:
            InputError: the task has none; by default.
        """
        raise InputError(f"there is no linear model for {cls.name}; use another fusion")

    @classmethod
    def has_linear_models(cls) -> bool:
        """Whether the task has linear models: it does where :meth:`linear_fits` is overridden."""
        return cls.linear_fits.__func__ is not Task.linear_fits.__func__  # type: ignore[attr-defined]

    @classmethod
    def averaged(cls, outputs: Tensor, weights: Tensor) -> Tensor:
        """Raw outputs of several models as those of one: by default their weighted mean.

        Args:
            outputs: ``(E, ..., K)``, of ``E`` models.
            weights: ``(E,)``, adding up to 1.
        """
        return torch.einsum("e,e...->...", weights.to(outputs), outputs)

    @classmethod
    def averaging(cls, names: tuple[str, ...] | None) -> Callable[[Tensor, Tensor], Tensor]:
        """:meth:`averaged`, for a task whose outputs are told apart by their names.

        Args:
            names: of the outputs, or None.
        """
        return cls.averaged

    # What explanations ask for.

    def explained_output(self, outputs: Tensor) -> Tensor:
        """Which of the outputs ``(n, K)`` of each sample is explained where none is named: int64 ``(n,)``.

        Raises:
            InputError: there are several, and none of them is the prediction.
        """
        if self.predicts_largest:
            return outputs.argmax(-1)
        if outputs.shape[-1] > 1:
            most = outputs.shape[-1] - 1
            raise InputError(f"the model has {most + 1} targets; say which one to explain: output=0 to output={most}")
        return outputs.new_zeros(len(outputs), dtype=torch.int64)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Logarithms of the probabilities of outputs ``(..., K)``, where one of the ``values`` is a probability."""
        raise InputError(f"the outputs of {self.name} have no probabilities")

    def base_output(self, target: NDArray[Any], outputs: int) -> NDArray[np.float64]:
        """Raw outputs ``(K,)`` of a predictor that knows nothing but the targets; by default zeros."""
        return np.zeros(outputs)

    @classmethod
    def choices(cls, outputs: Floats, target: NDArray[Any] | None) -> tuple[Floats, NDArray[np.int64] | None] | None:
        """Raw outputs ``(n, K)`` and targets as choices of one class each, which calibration is about.

        Returns:
            Logits ``(m, C)`` and classes ``(m,)``, or None where the task has nothing of the kind, as by default.
        """
        return None

    # What reports ask for.

    def apart(self, prediction: Tensor, target: Tensor) -> dict[str, tuple[Task, Tensor, Tensor]]:
        """Each of several targets as a task with its own outputs and targets; by default the task itself under ""."""
        return {"": (self, prediction, target)}

    def sample_losses(self, prediction: Tensor, target: Tensor) -> Tensor | None:
        """How wrong each sample's prediction is, ``(n,)``; None where no sample stands alone, as by default."""
        return None

    # What balancing asks for.

    def sample_scores(self, prediction: Tensor, target: Tensor) -> Tensor:
        """How well each sample is predicted, ``(n,)`` in [0, 1].

        Raises:
            InputError: the task has no such scores; by default.
        """
        raise InputError(f"{self.name} has no score of a single sample")

    @classmethod
    def scores_samples(cls) -> bool:
        """Whether the task scores single samples: it does where :meth:`sample_scores` is overridden."""
        return cls.sample_scores is not Task.sample_scores

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way the monitor is better."""
        return self.metric(self.monitor).mode

    def choose_metrics(self, metrics: Iterable[str] | str = (), monitor: str | None = None) -> Task:
        """Measure further metrics, show the first of them as the headline, and watch another one.

        Args:
            metrics: names; of the task's own metrics, or of :data:`equifuse.registry.METRICS`. The first one becomes
                the headline.
            monitor: name of the metric that early stopping watches, with or without ``val_`` before it; None for the
                task's usual one.

        Returns:
            The task itself.

        Raises:
            UnknownNameError: no such metric of this task.
        """
        names = [_bare(name) for name in ((metrics,) if isinstance(metrics, str) else metrics)]
        for name in (*names, *([] if monitor is None else [_bare(monitor)])):
            chosen = self.metric(name)
            self._asked = (*self._asked, chosen.name)
            if chosen is not LOSS and all(own.name != chosen.name for own in self.measures):
                self.measures = (*self.measures, chosen)
        if names:
            self.headline = names[0]
        if monitor is not None:
            self.monitor = _bare(monitor)
        return self

    def metric(self, name: str) -> Metric:
        """A metric by name, with or without ``val_`` before it; that of a part, ``"recall@10 a->b"``, is the whole's.

        Raises:
            UnknownNameError: the task has none of that name; the message has the nearest.
        """
        bare = _bare(name).partition(" ")[0]
        own = {metric.name: metric for metric in (LOSS, *self.measures)}
        if bare in own:
            return own[bare]
        if bare in METRICS and METRICS.get(bare).fits(self.name):
            return METRICS.get(bare)
        others = [other.name for other in METRICS.parts() if other.fits(self.name) and other.name not in own]
        raise UnknownNameError(f"metric of {self.name}:", bare, [*own, *others])

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of raw outputs ``(B, K)``: the mean over the samples.

        Args:
            prediction: ``(B, K)``.
            target: as the task has it.
            weight: ``(B,)``, ≥ 0, for a weighted mean: whole numbers are as good as repeated samples.
        """

    def undefined_loss(self, prediction: Tensor, target: Tensor | None) -> str | None:
        """Why the loss of a whole split says nothing, or None where it does."""
        return None

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """What metrics get of raw outputs and targets, as arrays; by default both as they are, in float64."""
        y = None if target is None else target.numpy()
        return prediction.double().numpy(), y

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float | None]:
        """Metrics of a whole split; None where one is undefined there. :meth:`measure` has the reasons."""
        return self.measure(prediction, target).values

    def measure(self, prediction: Tensor, target: Tensor | None, only: Iterable[str] | None = None) -> Measurement:
        """Metrics of a whole split, and why some have no value.

        Args:
            prediction: raw outputs ``(n, K)`` on the CPU.
            target: as the task has it.
            only: names of the metrics to measure; None for all of the task.

        Raises:
            UnknownNameError: no such metric.
            InputError: a metric failed.
        """
        chosen = self.measures if only is None else tuple(dict.fromkeys(self.metric(name) for name in only))
        found, parts = self.measure_loss(prediction, target) if LOSS in chosen else Measurement(), Measurement()
        chosen = tuple(metric for metric in chosen if metric is not LOSS)
        if not chosen:
            return found
        p, y = self.readable(prediction, target)
        for metric in chosen:
            asked = only is not None or metric.name in self._asked
            measured = metric.measure(p, y, self, asked=asked)
            for name, value in measured.values.items():
                (found if name == metric.name else parts).put(name, value, measured.undefined.get(name, ""))
        return Measurement({**found.values, **parts.values}, {**found.undefined, **parts.undefined})

    def measure_loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Measurement:
        """The loss of a whole split under the name ``"loss"``, and why it has no value, where it has none."""
        found = Measurement()
        reason = self.undefined_loss(prediction, target)
        loss = math.nan if reason else self.loss(prediction, target, weight).item()
        found.put("loss", loss if math.isfinite(loss) else None, reason or f"it is {loss}: the model has diverged")
        return found

    def assess(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Measurement:
        """The loss of a whole split, and its metrics; only the loss is weighted."""
        loss = self.measure_loss(prediction, target, weight)
        diverged = loss.values["loss"] is None and self.undefined_loss(prediction, target) is None
        if diverged:  # what has diverged has no metrics
            reason = "the model has diverged"
            metrics = Measurement({m.name: None for m in self.measures}, {m.name: reason for m in self.measures})
        else:
            metrics = self.measure(prediction, target)
        return Measurement({**loss.values, **metrics.values}, {**loss.undefined, **metrics.undefined})

    @abstractmethod
    def predict(self, prediction: Tensor) -> Columns:
        """Raw outputs ``(n, K)`` as named columns ``(n,)`` for a table."""

    def records(self, columns: Columns) -> list[dict[str, Any]]:
        """What a JSON file of predictions holds: one record for each sample, by default all columns."""
        lists = {name: column.tolist() for name, column in columns.items()}
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

    def confusion(self, prediction: Tensor, target: Tensor) -> NDArray[np.int64] | None:
        """Samples of each class, rows, by predicted class, columns; None where outputs are no classes."""
        return None

    def forward(self, model: FusionModel, batch: Batch) -> ModelOutput:
        """What :meth:`loss` and :meth:`metrics` are computed from; by default the model's output."""
        output: ModelOutput = model(batch.inputs, batch.present, lengths=batch.lengths, index=batch.index)
        return output

    def forward_loss(self, model: FusionModel, batch: Batch) -> tuple[Tensor, ModelOutput]:
        """Task loss of a batch, and the output it was computed from."""
        output = self.forward(model, batch)
        loss = self.training_loss(output.prediction, batch.target, batch.weight)
        return (loss if self.teacher is None else self.teacher.joined(self, output.prediction, batch, loss)), output

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of raw outputs against those of another model, which a student learns from.

        Args:
            prediction: of the student, ``(B, K)``.
            taught: of the teacher.
            temperature: by which logits are divided, > 0.
            weight: ``(B,)``, what each sample counts, or None.

        Raises:
            InputError: the task has no such loss; by default.
        """
        raise InputError(f"there is nothing to distil in {self.name}: no loss between the outputs of two models")

    def training_loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """What training minimises, where it is not just :meth:`loss`, whose arguments it takes."""
        return self.loss(prediction, target, weight)

    def unimodal_losses(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss of what each modality says alone, over the samples that have it; {} where none says anything.

        Args:
            output: what :meth:`forward` returned.
            batch: the samples.
        """
        found = {}
        for m, said in output.unimodal.items():
            mask = output.present.get(m)
            if mask is None:
                found[m] = self.loss(said, batch.target, batch.weight)
            elif is_recorded(mask):  # samples cannot be left out of a recorded graph: they weigh nothing instead
                factor = mask.to(said) if batch.weight is None else mask * batch.weight
                found[m] = self.loss(said, batch.target, factor)
            elif bool(mask.any()):
                target, weight = (None if each is None else each[mask] for each in (batch.target, batch.weight))
                found[m] = self.loss(said[mask], target, weight)
        return found

    def measure_alone(self, unimodal: Mapping[str, Tensor], target: Tensor | None) -> dict[str, Measurement]:
        """The metrics of each modality alone, over the samples that have it.

        Args:
            unimodal: of an :class:`Evaluation`.
            target: of all samples.
        """
        found = {}
        for m, said in unimodal.items():
            has = ~said.isnan().any(-1)
            found[m] = self.assess(said[has], None if target is None else target[has]) if has.any() else Measurement()
        return found

    @torch.no_grad()
    def evaluate(self, model: FusionModel, batches: Iterable[Batch]) -> Evaluation:
        """Evaluate a model, in evaluation mode, on all batches of a split taken together.

        Raises:
            InputError: there is no batch.
        """
        device = next(model.parameters()).device
        with evaluation_mode(model):
            parts = [(result_of(self.forward(model, b.to(device))), b.target, b.weight) for b in batches]
        return self.gather(parts)

    def gather(self, parts: list[tuple[ModelOutput, Tensor | None, Tensor | None]]) -> Evaluation:
        """Join the outputs, targets and weights of all batches, and measure them; only the loss is weighted.

        Raises:
            InputError: there is no batch.
        """
        if not parts:
            raise InputError("there is nothing to evaluate")
        evaluation = join([output for output, _, _ in parts])
        target, weight = joined([target for _, target, _ in parts]), joined([weight for _, _, weight in parts])
        found = self.assess(evaluation.prediction, target, weight)
        evaluation.metrics, evaluation.undefined = found.values, found.undefined
        return evaluation


def _bare(metric: str) -> str:
    """The name of a metric without the part that it is measured on."""
    return str(metric).removeprefix(_PREFIX)


def needed(target: Tensor | None) -> Tensor:
    """The target, where the task cannot do without.

    Raises:
        InputError: it is None.
    """
    if target is None:
        raise InputError("this task needs labels, the split has none")
    return target


def average(each: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``(B, …)``, the samples weighted by ``weight`` ``(B,)``, if given; 0 where all weights are."""
    if weight is None:
        return each.mean()
    weight = weight.to(each)
    return (weight * each.reshape(len(each), -1).mean(1)).sum() / weight.sum().clamp(min=tiny(each))


def tiny(like: Tensor) -> float:
    """The least normal number above 0: what a total is raised to before something is divided by it."""
    return torch.finfo(like.dtype).tiny


def probabilities(prediction: Tensor) -> NDArray[np.float64]:
    """Softmax of logits ``(n, K)`` in float64, so that every row sums to 1 to rounding."""
    return torch.softmax(prediction.double(), dim=-1).numpy()


def output_names(classes: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    """Names of ``count`` outputs: the classes, or their numbers."""
    return classes if classes is not None else tuple(str(i) for i in range(count))
