"""Questions about images: answers of a vocabulary, scored by how many people gave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.data.answers import ANSWER_TYPES, Question, answer_vocabulary, packed, vocabulary_form
from equifuse.errors import DataError
from equifuse.tasks.base import OF_CLASSES, Columns, Task, needed, output_names, tiny
from equifuse.tasks.metrics import Metric
from equifuse.tasks.targets import Array, Quantities, Targets

Floats = NDArray[np.float64]
# Two outputs of a vocabulary at least.
_LEAST = 2


class Answers(Quantities):
    """What people answered, as :func:`equifuse.data.answers.packed` stores it: float32 ``(n, 1 + 3 W)``.

    A table has them in one column, or in one for each person who answered.

    >>> from equifuse.tasks import Answers
    >>> target, names = Answers().encode(np.array([["yes", "yes"], ["no", "No."]]), ["a1", "a2"], "vqa")
    >>> names, target.shape
    (('no', 'yes'), (2, 31))
    """

    outputs_called = "answers"
    words = True
    named = True

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """See :meth:`Targets.encode`; every answer of the first column is in the vocabulary."""
        said = [tuple(str(answer) for answer in row if str(answer).strip()) for row in values.tolist()]
        vocabulary = answer_vocabulary((row[0] for row in said), least=1)
        kinds = ["yes/no" if vocabulary_form(row[0]) in ("yes", "no") else "other" for row in said]
        questions = [Question(row, kind) for row, kind in zip(said, kinds, strict=True)]
        return packed(questions, vocabulary), vocabulary

    def recoded(self, target: Array, names: tuple[str, ...] | None, known: tuple[str, ...] | None, where: str) -> Array:
        """By the words of the answers; those that the model cannot give have no place any more."""
        if names is None or known is None or names == known:
            return target
        places = {word: k for k, word in enumerate(known)}
        moved = np.array([*(places.get(word, -1) for word in names), -1], dtype=np.float32)
        found = np.array(target, dtype=np.float32)
        found[:, 1::3] = moved[found[:, 1::3].astype(np.int64)]
        return found

    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Places within the vocabulary, which some question of the training part has."""
        if classes is None or len(classes) < _LEAST:
            raise DataError(f"task {task!r} needs the answers that can be given, at least {_LEAST}")
        for part, target in parts.items():
            if target.ndim != _LEAST or target.shape[1] % 3 != 1 or target.dtype.kind != "f":
                raise DataError(f"targets of split {part!r} are no packed answers: shape {target.shape}")
            places = target[:, 1::3]
            if len(places) and float(places.max()) >= len(classes):
                raise DataError(f"targets of split {part!r} have answers beyond the {len(classes)} of the vocabulary")
        if not bool((parts["train"][:, 1::3] >= 0).any()):  # type: ignore[operator]
            raise DataError(
                "no question of 'train' has an answer in the vocabulary; take rarer ones: --format-option "
                "least_answers=1"
            )

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """The best answer of each question, and its kind."""
        entries = np.asarray(target[:, 1:], dtype=np.float32).reshape(len(target), -1, 3)
        best = entries[np.arange(len(entries)), entries[:, :, 2].argmax(1), 0].astype(np.int64)
        words = np.array([*(names or ()), ""], dtype=object)
        return {"target": words[best], "answer_type": np.asarray(ANSWER_TYPES)[target[:, 0].astype(np.int64)]}

    def n_outputs(self, target: Array) -> int:
        """As many as the names say; of targets alone, those that occur."""
        return int(target[:, 1::3].astype(np.int64).max()) + 1

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """None."""
        return None, False

    def told_by(self, feature: NDArray[np.floating[Any]], target: Array) -> bool:
        """Not looked at."""
        return False

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """How many answers there are, and how many questions of which kind."""
        counts = np.bincount(target[:, 0].astype(np.int64), minlength=len(ANSWER_TYPES))
        scored = float((target[:, 1::3] >= 0).any(axis=1).mean())  # type: ignore[operator]
        kinds = ", ".join(f"{name} {count:,}" for name, count in zip(ANSWER_TYPES, counts, strict=True) if count)
        return (
            f"answers: {len(names or ()):,} can be given; {scored:.1%} of {len(target):,} questions have one; {kinds}"
        )


def _accuracies(p: Floats, y: NDArray[np.float32]) -> Floats:
    """The official accuracy ``(n,)`` of each question's most likely answer."""
    entries = y[:, 1:].reshape(len(y), -1, 3)
    chosen = entries[:, :, 0] == p.argmax(axis=1)[:, None]
    return np.asarray(np.where(chosen, entries[:, :, 2], 0.0).sum(axis=1), dtype=np.float64)


def _accuracy(kind: int | None, p: Floats, y: NDArray[np.float32]) -> float:
    """Mean official accuracy, of the questions of one kind."""
    each = _accuracies(p, y)
    return float(each.mean() if kind is None else each[y[:, 0] == kind].mean())


def _none_of(kind: int, p: Floats, y: NDArray[np.float32]) -> str | None:
    return None if bool((y[:, 0] == kind).any()) else f"no question has an answer of kind {ANSWER_TYPES[kind]!r}"


class VQA(Task):
    """Questions about images: for each answer of a vocabulary the share of people who would agree with it.

    >>> from equifuse.data.answers import Question, packed
    >>> people = Question(("net",) * 6 + ("netting", "mesh", "pitcher", "orange"))
    >>> target = torch.from_numpy(packed([people], ["mesh", "net", "no"]))
    >>> found = VQA(("mesh", "net", "no")).metrics(torch.tensor([[3.0, 1.0, 0.0]]), target)
    >>> round(found["vqa_accuracy"], 2), found["vqa_yes_no"]
    (0.3, None)

    Binary cross-entropy on logits ``(B, K)`` against soft scores, summed over the answers as in Anderson et al. (2018):
    0.3, 0.6, 0.9 and 1 for one, two, three and more of ten people. Metrics: ``vqa_accuracy``, the official accuracy of
    VQA v2 (rule of 2021) of the likeliest answer, and the same for questions whose answer is yes or no, a number, or
    another. :func:`equifuse.data.questions.score` measures a submission, by kind of question too.
    """

    name: ClassVar[str] = "vqa"
    targets: ClassVar[Targets] = Answers()
    measures = (
        Metric("vqa_accuracy", partial(_accuracy, None), description="Official accuracy of VQA v2, rule of 2021."),
        *(
            Metric(
                f"vqa_{name}",
                partial(_accuracy, kind),
                undefined_when=partial(_none_of, kind),
                description=f"The same for questions of which the answer is {ANSWER_TYPES[kind]}.",
            )
            for kind, name in enumerate(("yes_no", "number", "other"))
        ),
    )
    headline = "vqa_accuracy"
    output_name: ClassVar[str] = "logits"
    values: ClassVar[tuple[str, ...]] = OF_CLASSES
    predicts_largest: ClassVar[bool] = True

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Binary cross-entropy, summed over the answers, mean over the questions."""
        soft = _soft(needed(target), prediction)
        each = F.binary_cross_entropy_with_logits(prediction, soft, reduction="none").sum(-1)
        if weight is None:
            return each.mean()
        weight = weight.to(each)
        return (weight * each).sum() / weight.sum().clamp(min=tiny(each))

    @classmethod
    def start(cls, target: Tensor, names: tuple[str, ...] | None) -> Tensor | None:
        """Log-odds of the mean scores: an untrained model says what people usually answer."""
        return None if names is None else torch.from_numpy(_log_odds(target.numpy(), len(names))).float()

    @classmethod
    def averaged(cls, outputs: Tensor, weights: Tensor) -> Tensor:
        """Logits of the weighted mean of the probabilities."""
        shares = weights.to(outputs).log().reshape(-1, *[1] * (outputs.dim() - 1))
        yes, no = (torch.logsumexp(F.logsigmoid(x) + shares, dim=0) for x in (outputs, -outputs))
        return yes - no

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of the answers, each on its own."""
        return F.logsigmoid(outputs)

    def base_output(self, target: Array, outputs: int) -> Floats:
        """Log-odds of the answers' mean scores."""
        return _log_odds(target, outputs)

    def sample_scores(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The soft score of the answer that is predicted."""
        return _soft(target, prediction).gather(1, prediction.argmax(1, keepdim=True)).squeeze(1)

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction``, the likeliest answer, and ``confidence``, its probability."""
        p = torch.sigmoid(prediction.double()).numpy()
        names = np.asarray(output_names(self.classes, p.shape[1]), dtype=object)
        return {"prediction": names[p.argmax(1)].astype(str), "confidence": p.max(1)}

    def records(self, columns: Columns) -> list[dict[str, Any]]:
        """A submission as the official evaluation takes it: ``question_id`` and ``answer`` of each question."""
        if "id" not in columns:
            return super().records(columns)
        ids = [int(key) if str(key).isdigit() else str(key) for key in columns["id"].tolist()]
        answers = columns["prediction"].tolist()
        return [{"question_id": key, "answer": answer} for key, answer in zip(ids, answers, strict=True)]


def _soft(target: Tensor, like: Tensor) -> Tensor:
    """Soft scores ``(B, K)`` of packed targets ``(B, 1 + 3 W)``."""
    entries = target[:, 1:].reshape(len(target), -1, 3)
    places, there = entries[:, :, 0].long(), entries[:, :, 0] >= 0
    scores = torch.where(there, entries[:, :, 1], 0.0).to(like)
    return torch.zeros_like(like).scatter_add(1, places.clamp(min=0), scores)


def _log_odds(target: Array, outputs: int) -> Floats:
    """Of the mean soft scores, counted once more than seen, so that all are finite."""
    total = np.zeros(outputs)
    entries = np.asarray(target[:, 1:], dtype=np.float64).reshape(-1, 3)
    entries = entries[entries[:, 0] >= 0]
    np.add.at(total, entries[:, 0].astype(np.int64), entries[:, 1])
    return np.asarray(np.log((total + 1) / (len(target) - total + 1)), dtype=np.float64)
