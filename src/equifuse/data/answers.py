"""Answers to questions about images: how VQA compares, scores and counts them, exactly as its evaluation does.

The rules are those of VQA v2's official evaluation in its form of 2021 (``vqaEval.py``, Goyal et al. 2017), in own
words: people's answers are compared as they are where all agree; otherwise they and the prediction are normalised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What a question's answer is: its place is its number in targets. Others, of other sets, count as "other".
ANSWER_TYPES = ("yes/no", "number", "other")
# Scores of an answer by how many of ten people gave it: the official accuracy of that answer.
_SOFT = (0.0, 0.3, 0.6, 0.9, 1.0)
# As many numbers as there are of each answer in a packed target: its place, its soft score, its official accuracy.
_FIELDS = 3
# Answers of a question for which a packed target has room at least: people who answer.
_ROOM = 10

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The evaluation passes a flag where a number of replacements is expected, which makes it this number.
_MOST_PERIODS = 32
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = ("a", "an", "the")


# Words that may stand without their apostrophe, and those of two apostrophes, of which either may be missing.
_ONE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_TWO = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
there'd've they'd've we'd've who'd've wouldn't've you'd've
"""
_ODD = {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _contractions() -> dict[str, str]:
    """Words without an apostrophe -> with it, as the evaluation's table has them; its oddities are kept."""
    found = {word.replace("'", ""): word for word in _ONE.split()}
    for word in _TWO.split():
        stem, first, last = word.split("'")
        found |= {f"{stem}{first}'{last}": word, f"{stem}'{first}{last}": word}
    return found | _ODD


_CONTRACTIONS = _contractions()


def without_punctuation(text: str) -> str:
    """A text without the marks that the evaluation deletes, or with spaces in their place.

    >>> from equifuse.data.answers import without_punctuation
    >>> without_punctuation("t-shirt"), without_punctuation("1,000 t-shirts"), without_punctuation("u.s.a.")
    ('t shirt', '1000 tshirts', 'usa')
    """
    thousands, found = _DIGIT_COMMA.search(text) is not None, text
    for mark in _MARKS:
        deleted = thousands or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if deleted else " ")
    return _PERIOD.sub("", found, count=_MOST_PERIODS)


def normalised(text: str) -> str:
    """An answer as answers are compared: no punctuation, no articles, lower case, numbers in digits.

    >>> from equifuse.data.answers import normalised
    >>> normalised("The two T-shirts!"), normalised("dont know"), normalised("None")
    ('2 t shirts', "don't know", '0')
    """
    words = [_NUMBERS.get(word, word) for word in without_punctuation(text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def plain(text: str) -> str:
    """A text without line breaks, tabs, and spaces around it: all that is done to answers on which all people agree."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def answer_accuracy(prediction: str, people: Sequence[str]) -> float:
    """The official accuracy of one answer: the mean over the people of min(1, others who gave it / 3).

    One answer alone, as sets with one person have it, is compared as if all people had given it.

    >>> from equifuse.data.answers import answer_accuracy
    >>> people = ["net"] * 6 + ["netting", "mesh", "pitcher", "orange"]
    >>> answer_accuracy("the net", people), round(answer_accuracy("mesh", people), 2), answer_accuracy("window", people)
    (1.0, 0.3, 0.0)
    >>> answer_accuracy("Orange", ["orange"] * 10)  # where all agree nothing is normalised
    0.0

    Args:
        prediction: the answer.
        people: their answers, at least one.
    """
    given, said = [plain(answer) for answer in people], plain(prediction)
    if len(set(given)) == 1:
        return float(said == given[0]) * _agreed(len(given))
    given, said = [normalised(answer) for answer in given], normalised(said)
    matches = [answer == said for answer in given]
    count = sum(matches)
    return sum(min(1.0, (count - match) / 3) for match in matches) / len(matches)


def _agreed(people: int) -> float:
    """The accuracy of an answer that all people gave: 1 unless they are too few to make it so."""
    return 1.0 if people == 1 else min(1.0, (people - 1) / 3)


def answer_vocabulary(answers: Iterable[str], least: int = 9) -> tuple[str, ...]:
    """The answers that a model can give: the most common one of each question, if so many questions have it.

    >>> from equifuse.data.answers import answer_vocabulary
    >>> answer_vocabulary(["Yes", "yes", "no", "a dog"], least=2)
    ('yes',)

    Args:
        answers: of each question the one that most people gave (``multiple_choice_answer``).
        least: how many questions must have it.
    """
    counts: dict[str, int] = {}
    for answer in answers:
        word = vocabulary_form(answer)
        counts[word] = counts.get(word, 0) + 1
    return tuple(sorted(word for word, count in counts.items() if count >= least))


def vocabulary_form(answer: str) -> str:
    """An answer as it stands in a vocabulary: normalised, and without any comma."""
    return normalised(answer).replace(",", "")


@dataclass(frozen=True)
class Question:
    """A question as it is scored: what people answered, and of which kind that is.

    >>> from equifuse.data.answers import Question
    >>> Question(("yes",) * 10, "yes/no").answers[0]
    'yes'
    """

    answers: tuple[str, ...]
    answer_type: str = "other"


def packed(questions: Sequence[Question], vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """Targets of questions in little room: of each the kind of its answer, and the few answers that score.

    A model of 3,129 answers would need gigabytes of targets that are nearly all zero.

    >>> from equifuse.data.answers import packed, unpacked
    >>> people = Question(("net",) * 6 + ("netting", "mesh", "pitcher", "orange"))
    >>> soft, official, kind = unpacked(packed([people], ["mesh", "net", "no"]), 3)
    >>> soft.tolist(), kind.tolist()
    ([[0.30000001192092896, 1.0, 0.0]], [2])

    Args:
        questions: the questions.
        vocabulary: the answers that a model can give.

    Returns:
        Float32 ``(n, 1 + 3 W)``: the kind, and ``W`` times place, soft score and accuracy; -1 where there is no more.
    """
    places = {word: k for k, word in enumerate(vocabulary)}
    alike: dict[str, list[int]] = {}
    for k, word in enumerate(vocabulary):
        alike.setdefault(normalised(word), []).append(k)
    cache: dict[tuple[str, ...], list[tuple[int, float, float]]] = {}
    rows = []
    for question in questions:
        if question.answers not in cache:
            cache[question.answers] = _scores(question.answers, places, alike, vocabulary)
        rows.append(cache[question.answers])
    room = max(_ROOM, max((len(row) for row in rows), default=0))
    target = np.full((len(rows), room, _FIELDS), -1, dtype=np.float32)
    target[:, :, 1:] = 0
    for i, row in enumerate(rows):
        target[i, : len(row)] = row or np.zeros((0, _FIELDS))
    kinds = [ANSWER_TYPES.index(q.answer_type) if q.answer_type in ANSWER_TYPES else 2 for q in questions]
    return np.hstack([np.array(kinds, dtype=np.float32)[:, None], target.reshape(len(rows), -1)])


def _scores(
    answers: tuple[str, ...], places: dict[str, int], alike: dict[str, list[int]], vocabulary: Sequence[str]
) -> list[tuple[int, float, float]]:
    """Place, soft score and official accuracy of every answer in the vocabulary that has one of them."""
    counts: dict[int, int] = {}
    likely: set[int] = set()
    for answer in answers:
        form = normalised(plain(answer))
        place = places.get(form)
        if place is not None:
            counts[place] = counts.get(place, 0) + 1
        likely.update(alike.get(form, ()))
        if plain(answer) in places:
            likely.add(places[plain(answer)])
    full = len(answers) == 1
    found = []
    for place in sorted(likely | set(counts)):
        soft = _SOFT[-1] if full and place in counts else _SOFT[min(counts.get(place, 0), len(_SOFT) - 1)]
        found.append((place, soft, answer_accuracy(vocabulary[place], answers)))
    return [entry for entry in found if entry[1] or entry[2]]


def unpacked(
    target: NDArray[np.float32], outputs: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Soft scores and official accuracies ``(n, K)`` of every answer, and the kind of each question ``(n,)``.

    Args:
        target: as :func:`packed` makes it.
        outputs: ``K``.
    """
    entries = target[:, 1:].reshape(len(target), -1, _FIELDS)
    rows, slots = np.nonzero(entries[:, :, 0] >= 0)
    places = entries[rows, slots, 0].astype(np.int64)
    found = np.zeros((2, len(target), outputs), dtype=np.float32)
    found[:, rows, places] = entries[rows, slots, 1:].T
    return found[0], found[1], target[:, 0].astype(np.int64)
