"""Files of questions about images, answers of people and of models, in the layout of VQA v2."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equifuse.data.answers import Question, answer_accuracy, plain
from equifuse.errors import DataError
from equifuse.files import parse_errors

# Digits of a percentage, as the official evaluation rounds it.
_DIGITS = 2


@dataclass(frozen=True)
class Asked:
    """A question about an image.

    >>> from equifuse.data.questions import Asked
    >>> Asked("458752000", "458752", "What is this?").image
    '458752'

    Attributes:
        id: of the question.
        image: id of the image.
        text: the question.
    """

    id: str
    image: str
    text: str


@dataclass(frozen=True)
class Annotated:
    """What people answered to a question.

    Attributes:
        question: their answers, and of which kind they are.
        common: the answer that most gave.
        question_type: how the question begins, such as ``"what is this"``; "" where the file does not say.
    """

    question: Question
    common: str
    question_type: str = ""


def read_questions(path: Path) -> list[Asked]:
    """The questions of a file: ``{"questions": [{"question_id", "image_id", "question"}, ...]}``.

    Raises:
        DataError: it is no such file, or an id occurs twice.
    """
    found = []
    with parse_errors(path, "questions"):
        for entry in _entries(path, "questions"):
            found.append(Asked(_key(entry["question_id"]), _key(entry["image_id"]), str(entry["question"])))
    _refuse_repeated(path, (asked.id for asked in found))
    return found


def read_annotations(path: Path) -> dict[str, Annotated]:
    """Question id -> annotation, of a file ``{"annotations": [{"question_id", "answers": [{"answer"}, ...]}, ...]}``.

    Where ``multiple_choice_answer`` is not in the file, it is the most frequent answer; where ``answer_type`` is not,
    it is told from that.

    Raises:
        DataError: it is no such file, an id occurs twice, or a question has no answer.
    """
    found: dict[str, Annotated] = {}
    entries = _entries(path, "annotations")
    with parse_errors(path, "annotations"):
        _refuse_repeated(path, (_key(entry["question_id"]) for entry in entries))
        for entry in entries:
            answers = tuple(str(each["answer"] if isinstance(each, Mapping) else each) for each in entry["answers"])
            if not answers:
                raise DataError(f"{path}: question {entry['question_id']} has no answer")
            common = str(entry.get("multiple_choice_answer") or Counter(map(plain, answers)).most_common(1)[0][0])
            kind = str(entry.get("answer_type") or _kind_of(common))
            said = str(entry.get("question_type") or "")
            found[_key(entry["question_id"])] = Annotated(Question(answers, kind), common, said)
    return found


def _kind_of(answer: str) -> str:
    if plain(answer).lower() in ("yes", "no"):
        return "yes/no"
    return "number" if plain(answer).isdigit() else "other"


def _entries(path: Path, key: str) -> list[Any]:
    with parse_errors(path, "JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} has no list {key!r}; the files of VQA v2 do")
    return entries


def _key(value: Any) -> str:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{value!r} is no id")
    return str(value)


def _refuse_repeated(path: Path, ids: Iterable[str]) -> None:
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: question {twice[0]} occurs more than once, as do {len(twice) - 1} more")


@dataclass(frozen=True)
class Scores:
    """The official accuracies of a submission, in percent, rounded to two digits.

    Attributes:
        overall: over all questions.
        answer_types: kind of answer -> over its questions.
        question_types: how questions begin -> likewise.
        questions: how many there are.
    """

    overall: float
    answer_types: dict[str, float] = field(default_factory=dict)
    question_types: dict[str, float] = field(default_factory=dict)
    questions: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the names of the official evaluation."""
        return {
            "overall": self.overall,
            "perAnswerType": self.answer_types,
            "perQuestionType": self.question_types,
            "questions": self.questions,
        }


def score(answers: Mapping[str, str], annotations: Mapping[str, Annotated]) -> Scores:
    """The accuracy of answers as the official evaluation of VQA v2 (rule of 2021) measures it.

    >>> from equifuse.data.answers import Question
    >>> from equifuse.data.questions import Annotated, score
    >>> people = Question(("net",) * 6 + ("netting", "mesh", "pitcher", "orange"))
    >>> score({"458752000": "mesh"}, {"458752000": Annotated(people, "net", "what is this")}).overall
    30.0

    Args:
        answers: question id -> answer.
        annotations: question id -> what people answered.

    Raises:
        DataError: the questions are not the same.
    """
    lacking = [key for key in annotations if key not in answers]
    unknown = [key for key in answers if key not in annotations]
    if lacking or unknown or not annotations:
        said = [f"{len(lacking)} questions have no answer, such as {lacking[0]}"] if lacking else []
        said += [f"{len(unknown)} answers are to unknown questions, such as {unknown[0]}"] if unknown else []
        raise DataError("; ".join(said) or "there are no questions")
    each = {key: answer_accuracy(answers[key], annotated.question.answers) for key, annotated in annotations.items()}
    by_answer: dict[str, list[float]] = {}
    by_question: dict[str, list[float]] = {}
    for key, annotated in annotations.items():
        by_answer.setdefault(annotated.question.answer_type, []).append(each[key])
        if annotated.question_type:
            by_question.setdefault(annotated.question_type, []).append(each[key])
    return Scores(_percent(list(each.values())), _means(by_answer), _means(by_question), len(each))


def _percent(each: Sequence[float]) -> float:
    return round(100 * sum(each) / len(each), _DIGITS)


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: _percent(each) for name, each in sorted(groups.items())}


def read_answers(path: Path) -> dict[str, str]:
    """Question id -> answer, of a submission ``[{"question_id": ..., "answer": ...}, ...]``.

    Raises:
        DataError: it is none, or an id occurs twice.
    """
    with parse_errors(path, "a list of question_id and answer"):
        listed = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(_key(entry["question_id"]), str(entry["answer"])) for entry in listed]
    _refuse_repeated(path, (key for key, _ in pairs))
    return dict(pairs)
