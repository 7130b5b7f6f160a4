"""Ids of rows: read alike from every file, matched between files, and what stands in the way of that."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy import Features, in_memory, select
from equifuse.errors import DataError, InputError

DUPLICATES = ("error", "first", "mean", "keep")
_NAMED = 3
# Rules by which ids of two files may be the same: what is different, and the pattern that leaves it out.
_RULES = (
    ("blanks around them", r"^\s*(.*?)\s*$"),
    ("upper and lower case", r"(?i)^\s*(.*?)\s*$"),
    ("a decimal point", r"^(.*?)(?:\.0+)?$"),
    ("zeros in front", r"^0*(.+)$"),
    ("a suffix", r"^(.*?)(?:[-_.]\d{1,2}[A-Za-z]?)?$"),
)
_PART = r"([^-._ ]+)"


@dataclass(frozen=True)
class IdPattern:
    r"""What of an id counts: the groups of a regular expression, joined by ``-``, or all that it matches.

    >>> IdPattern(r"^(TCGA)[-.](\w+)[-.](\w+)").of(["TCGA.A1.A0SB.01A", "TCGA-A2-A0T2"], "t.csv")
    ['TCGA-A1-A0SB', 'TCGA-A2-A0T2']
    >>> IdPattern(r"(?i)^(p\d+)").of(["P1_x"], "t.csv")  # upper and lower case are the same
    ['p1']

    Attributes:
        pattern: the regular expression; "" for ids as they are.
    """

    pattern: str = ""

    def of(self, ids: Sequence[str], where: str) -> list[str]:
        """The ids by the pattern.

        Raises:
            DataError: one does not match.
            InputError: the pattern is none.
        """
        if not self.pattern:
            return list(ids)
        found = self.found(ids)
        lacking = [given for given, new in zip(ids, found, strict=True) if new is None]
        if lacking:
            raise DataError(
                f"{where}: {len(lacking)} of {len(ids)} ids do not match the pattern {self.pattern!r}, such as "
                f"{named(lacking)}"
            )
        return [new for new in found if new is not None]

    def found(self, ids: Sequence[str]) -> list[str | None]:
        """The ids by the pattern, None where it does not match."""
        if not self.pattern:
            return list(ids)
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"{self.pattern!r} is no regular expression: {error}") from None

        def of(text: str) -> str | None:
            match = compiled.search(text)
            if match is None:
                return None
            joined = "-".join(group for group in match.groups() if group is not None) if match.groups() else match[0]
            return joined.casefold() if compiled.flags & re.IGNORECASE else joined

        return [of(text) for text in ids]


@dataclass(frozen=True)
class Matched:
    """How the ids of a file and those that are wanted fit.

    Attributes:
        matched: number of wanted ids that the file has.
        lacking: wanted ids that it does not have: how many, and some of them.
        unused: ids of the file that nobody wants, likewise.
        merged: rows of the file that repeat an id, and were merged.
    """

    matched: int
    lacking: tuple[int, tuple[str, ...]]
    unused: tuple[int, tuple[str, ...]]
    merged: int = 0


def id_texts(column: Any, where: str, line: Callable[[int], str]) -> list[str]:
    """An Arrow column of ids as text; whole numbers without a decimal point.

    Raises:
        DataError: some are empty.
    """
    values = column.to_pylist()
    empty = [row for row, v in enumerate(values) if v is None or v == "" or (isinstance(v, float) and math.isnan(v))]
    if empty:
        raise DataError(f"{where} is empty in {len(empty)} of {len(values)} rows, such as {line(empty[0])}")
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]


def rows_by_id(
    found: Features,
    known: Sequence[str],
    ids: Sequence[str] | NDArray[np.str_],
    where: str,
    *,
    duplicates: str = "error",
    line: Callable[[int], str] | None = None,
) -> tuple[Features, Matched]:
    """The rows of a source for these ids, NaN where it has none; and how they fit.

    Args:
        found: all of its rows.
        known: their ids.
        ids: the ids that are wanted, in order.
        where: the source, for messages.
        duplicates: what becomes of rows with the same id: see :data:`DUPLICATES`.
        line: where a row is in the file.

    Raises:
        DataError: an id occurs twice in the source, it has few of those wanted and more by a rule, or none.
    """
    found, known, merged = unique_rows(found, known, where, duplicates, line or (lambda row: f"row {row + 1}"))
    places = {key: i for i, key in enumerate(known)}
    index = np.array([places.get(str(key), -1) for key in ids], dtype=np.intp)
    check_overlap(ids, known, where)
    wanted = {str(key) for key in ids}
    lacking = [str(key) for key, place in zip(ids, index, strict=True) if place < 0]
    unused = [key for key in known if key not in wanted]
    fit = Matched(
        len(index) - len(lacking),
        (len(lacking), tuple(lacking[:_NAMED])),
        (len(unused), tuple(unused[:_NAMED])),
        merged,
    )
    if not lacking:
        in_order = np.array_equal(index, np.arange(len(found)))
        return found if in_order else select(found, index), fit
    values = found[np.maximum(index, 0)]
    values[index < 0] = np.nan
    return values, fit


def unique_rows(
    found: Features, known: Sequence[str], where: str, duplicates: str, line: Callable[[int], str]
) -> tuple[Features, list[str], int]:
    """Rows with one for each id, the ids, and how many rows were merged into others.

    Raises:
        DataError: an id occurs twice, and nothing is said about that.
    """
    groups = groups_of(known)
    repeated = len(known) - len(groups)
    if not repeated:
        return found, list(known), 0
    if duplicates in ("error", "keep"):
        advice = "; pass --duplicates first or mean to make one row of them"
        raise DataError(said_of_duplicates(groups, where, line) + advice)
    first = np.array([rows[0] for rows in groups.values()], dtype=np.intp)
    if duplicates == "first":
        return select(found, first), list(groups), repeated
    return means(found, list(groups.values())), list(groups), repeated


def means(found: Features, groups: Sequence[Sequence[int]]) -> Features:
    """The mean row of each group, of what is there."""
    whole = in_memory(found)
    values = whole[np.array([rows[0] for rows in groups], dtype=np.intp)]
    for place, rows in enumerate(groups):
        if len(rows) > 1:
            some = whole[list(rows)].astype(np.float64)
            there = ~np.isnan(some)
            with np.errstate(invalid="ignore"):
                values[place] = np.where(there, some, 0).sum(axis=0) / there.sum(axis=0)
    return values


def groups_of(known: Iterable[str]) -> dict[str, list[int]]:
    """Id -> its rows, in order."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(known):
        groups.setdefault(str(key), []).append(row)
    return groups


def said_of_duplicates(groups: dict[str, list[int]], where: str, line: Callable[[int], str]) -> str:
    """What is said of ids that occur more than once."""
    twice = {key: rows for key, rows in groups.items() if len(rows) > 1}
    examples = [f"{key!r} ({', '.join(line(row) for row in rows[:_NAMED])})" for key, rows in list(twice.items())[:2]]
    what = f"{len(twice)} ids occur" if len(twice) > 1 else "an id occurs"
    return f"{where}: {what} more than once, such as {' and '.join(examples)}"


def refuse_repeated(ids: NDArray[Any], where: str) -> None:
    """Refuse ids of which one stands for several rows.

    Raises:
        DataError: naming some.
    """
    if len(set(ids.tolist())) < len(ids):
        said = said_of_duplicates(groups_of(ids.tolist()), where, lambda row: f"row {row + 1}")
        raise DataError(f"{said}; give each row its own")


def check_overlap(ids: Sequence[str] | NDArray[np.str_], known: Sequence[str], where: str) -> None:
    """Refuse a source that has few of the ids that are wanted, if it has more of them by a rule, or none at all.

    Raises:
        DataError: it proposes the rule.
    """
    wanted, there = [str(key) for key in ids], set(known)
    exact = sum(key in there for key in wanted)
    fewest = min(len(set(wanted)), len(there))
    if exact * 2 >= fewest and exact:
        return
    asked = set(wanted)
    known = [key for key in known if key not in asked] or list(known)
    few, such = (f"only {exact}", "not") if exact else ("none", "such as")
    lacking = next((key for key in wanted if key not in there), "")
    said = f"{where} knows {few} of the {len(wanted)} ids, {such} {lacking!r}"
    rule = proposed_rule(wanted, list(there), exact)
    if rule is not None:
        what, pattern, count = rule
        raise DataError(
            f"{said}; it has {named(known)}. Without {what} {count} are the same: pass --id-pattern '{pattern}'"
        )
    if not exact:
        has = f"it has {named(known)}" if len(known) else "it has no rows"
        raise DataError(f"{said}; {has}")


def proposed_rule(ids: Sequence[str], known: Sequence[str], exact: int) -> tuple[str, str, int] | None:
    r"""The rule that makes most ids of two files the same: what it leaves out, its pattern, and how many ids are.

    >>> proposed_rule(["p1", "p2", "p3"], ["p1-01", "p2-01", "p4-01"], 0)[1:]
    ('^(.*?)(?:[-_.]\\d{1,2}[A-Za-z]?)?$', 2)
    """
    distinct = list(dict.fromkeys(ids))
    best: tuple[str, str, int] | None = None
    for what, pattern in (*_RULES, *_rules_for(distinct, known)):
        rule = IdPattern(pattern)
        mine, theirs = rule.found(distinct), set(rule.found(known)) - {None}
        if None in mine or None in rule.found(known) or len(set(mine)) < len(distinct):
            continue
        count = sum(key in theirs for key in mine)
        if count > max(1, 2 * exact, 0 if best is None else best[2]):
            best = what, pattern, count
    return best


def _rules_for(ids: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Rules that depend on how the ids are made: of parts, of one length, or with a number."""
    found = []
    parts = min(len(re.findall(_PART, key)) for key in (*ids, *known)) if ids and known else 0
    if parts > 1:
        joined = "[-._ ]".join([_PART] * parts)
        found += [("what separates and follows their parts", f"^{joined}")]
        found += [("case, and what separates and follows their parts", f"(?i)^{joined}")]
    length = min((len(key) for key in (*ids, *known)), default=0)
    if length > 3:
        found.append((f"what follows the first {length} letters", f"^(.{{{length}}})"))
    found.append(("what stands around their number", r"^\D*0*(\d+)\D*$"))
    return found


def named(ids: Iterable[str]) -> str:
    """The first few, for messages."""
    listed = [repr(str(key)) for key in list(ids)[: _NAMED + 1]]
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")
