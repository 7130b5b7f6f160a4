"""The columns of a source: what a reader must know that the source does not say itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from equifuse.errors import DataError, InputError
from equifuse.options import Check, Options, mapping, one_of, option, optional, some_of, text, yes_no


@dataclass(frozen=True)
class _Patterns(Check):
    """Modality -> pattern of its columns."""

    def __call__(self, name: str, value: Any) -> Any:
        value = super().__call__(name, value)
        if not all(isinstance(key, str) and isinstance(entry, str) for key, entry in value.items()):
            raise InputError(f"{name} must {self.must}, got {value!r}")
        return dict(value)


def _patterns() -> Check:
    plain = mapping()
    return _Patterns("map names to column patterns", plain.accepts, pairs="text", convert=plain.convert)


def _files() -> Check:
    return Check(
        "name files or modalities, or be true for all of them",
        lambda v: all(isinstance(entry, str) and entry for entry in v),
        many=True,
        convert=lambda v: tuple(v) if isinstance(v, list | tuple) else {True: (ALL,)}.get(v, (v,) if v else ()),
    )


# All files; none of them; the file of --data.
ALL, NONE, MAIN = "*", "none", "data"
# The options that say how files are read: a trained model reads others in the same way.
READING = (
    "annotations",
    "format",
    "format_options",
    "id_pattern",
    "duplicates",
    "separator",
    "sheet",
    "transpose",
    "encoding",
    "na",
    "kinds",
)
# The options that say which reader there is, and how it is set: every format has them.
OF_FORMATS = ("format", "format_options")

# Separators that get lost where they are written out.
SEPARATORS = {"tab": "\t", "space": " "}


def _separator() -> Check:
    return Check(
        "be one character, or 'tab' or 'space'",
        lambda v: isinstance(v, str) and (v in SEPARATORS or (len(v) == 1 and v not in '"\r\n\t ')),
        convert=lambda v: next((name for name, mark in SEPARATORS.items() if mark == v), v),
    )


def _tasks() -> Iterable[str]:
    from equifuse.registry import TASKS  # noqa: PLC0415

    return TASKS.names()


def _formats() -> Iterable[str]:
    from equifuse.registry import FORMATS  # noqa: PLC0415

    return FORMATS.names()


@dataclass(frozen=True)
class SourceOptions(Options):
    """Which columns of a table are modalities, target, id and split.

    >>> options = ef.datasets.SourceOptions(modalities={"mrna": "g_*", "clinical": "age, sex"}, target="outcome")
    >>> options.target
    ('outcome',)

    Args:
        modalities: modality name -> pattern of its columns with ``*`` and ``?`` (several patterns are separated by
            ``,``), or the file that holds it, joined by the id (``expression.parquet``, or
            ``expression.parquet::g_*`` for some of its columns).
        kinds: pattern of columns -> what they hold: "number", "boolean", "category", "date", "text" or "embedding".
        encoders: modality -> pretrained model that its column is read for, such as "efficientnet", "wordllama" or a
            folder: it says how large pictures are and how texts are cut; a training sets it by its encoders.
        target: target columns: one for classes or a quantity, several for labels or quantities; for survival the time
            and the event.
        unlabelled: whether rows without a target are trained on by losses that need none, or left out.
        id: column that names the samples.
        split: column that says train, val or test.
        task: the task; None derives it from the target's values.
        group: column of what must not be torn apart, such as the patient: all rows of a group are in one part.
        stratify: columns whose values have the same shares in all parts, beside the classes.
        id_pattern: regular expression of what counts of an id in every file: its groups, joined by ``-``, or all that
            it matches; with ``(?i)`` in front upper and lower case are the same.
        duplicates: what becomes of rows with the same id: "error", "first", "mean", or "keep" (in the main table).
        transpose: files whose rows are features and whose columns are samples: their names, or those of modalities,
            ``data`` for that of the target; true for all files of modalities, or the one table. Where the ids, or the
            target, say so, it need not be asked for.
        sheet: of a workbook; None for the first.
        na: further cells that hold no value.
        encoding: of text tables; None finds it.
        separator: of text tables; None finds it.
        order: column of dates or numbers: the test part is the latest rows, validation those before it.
        keep: further columns to carry along, into tables of predictions and for results by site.
        untrusted: whether files are read in a process of their own, with limits of memory and time.
        annotations: file that says the label and the part of each clip of a folder.
        format: name of the format to read; None for the one that recognises the path.
        format_options: options of that format, as its class takes them.

    Raises:
        InputError: a value of the wrong kind.
        UnknownNameError: an unknown task.
    """

    _called = "source option"

    modalities: dict[str, str] = option(
        dict,
        _patterns(),
        help="For tables: name='g_*', the columns of a modality, or name=file.csv.",
        group="Data",
        flag="--modality",
    )
    kinds: dict[str, str] = option(
        dict,
        _patterns(),
        help="For tables: name=kind, what a column holds where that cannot be seen: number, boolean, category, date, "
        "text (hashed words) or embedding.",
        group="Data",
        flag="--column",
    )
    encoders: dict[str, str] = option(
        dict,
        _patterns(),
        help="For columns of pictures and texts: name=model, the pretrained encoder that they are read for.",
        group="Data",
        flag="",
    )
    target: tuple[str, ...] = option(
        (),
        some_of(),
        help="For tables: target column; several may be of different kinds, one of them TIME,EVENT.",
        group="Data",
    )
    unlabelled: bool = option(
        False,
        yes_no(),
        help="For tables: train on rows without a target, too, by the fusion's reconstruction; else they are left out.",
        group="Data",
        flag="--use-unlabelled",
        const=True,
    )
    id: str | None = option(
        None, optional(text()), help="For tables: column that names the samples.", group="Data", flag="--id"
    )
    split: str | None = option(
        None, optional(text()), help="For tables: column of train, val, test.", group="Data", flag="--split-column"
    )
    task: str | None = option(
        None,
        optional(one_of(names=_tasks)),
        help="classification, multilabel, regression, retrieval, several, survival; default by the target.",
        group="Data",
        flag="--task",
    )
    group: str | None = option(
        None,
        optional(text()),
        help="For tables: column whose equal rows stay together in one part, such as the patient.",
        group="Data",
        flag="--group",
    )
    stratify: tuple[str, ...] = option(
        (),
        some_of(),
        help="For tables: column to stratify by, beside the classes, such as the site.",
        group="Data",
        flag="--stratify",
    )
    order: str | None = option(
        None,
        optional(text()),
        help="For tables: column of dates or numbers; the latest rows are the test part.",
        group="Data",
        flag="--order",
    )

    id_pattern: str | None = option(
        None,
        optional(text()),
        help="For tables: regular expression of what counts of an id, its groups joined by '-'; (?i) ignores case.",
        group="Data",
        flag="--id-pattern",
    )
    duplicates: str | None = option(
        None,
        optional(one_of("error", "first", "mean", "keep")),
        help="For tables: rows of the same id: error, first, mean; keep is for the main table, if they are apart.",
        group="Data",
        flag="--duplicates",
        default_text="error",
    )
    transpose: tuple[str, ...] = option(
        (),
        _files(),
        help="For tables: rows are features and columns samples in this file (its name, or that of its modality, data "
        "for that of --data); without a name in all files of modalities, or the one table; none in none.",
        group="Data",
        flag="--transpose",
        const=ALL,
    )
    sheet: str | None = option(
        None,
        optional(text()),
        help="For a workbook as data: its sheet; a modality's is file.xlsx::sheet.",
        group="Data",
        flag="--sheet",
        default_text="the first",
    )
    na: tuple[str, ...] = option(
        (),
        some_of(),
        help="For tables: what a cell without a value holds, beside NA, n/a, - and the like.",
        group="Data",
    )
    encoding: str | None = option(
        None,
        optional(text()),
        help="For text tables: the encoding, such as cp1250.",
        group="Data",
        flag="--encoding",
        default_text="found",
    )
    separator: str | None = option(
        None,
        optional(_separator()),
        help="For text tables: what stands between cells, or the word tab or space.",
        group="Data",
        flag="--separator",
        default_text="found",
    )
    keep: tuple[str, ...] = option(
        (), some_of(), help="For tables: column to carry along beside the features.", group="Data", flag=""
    )
    untrusted: bool = option(
        False,
        yes_no(),
        help="Read files in a process of their own, with limits of memory and time; for files from elsewhere.",
        group="Data",
        flag="--untrusted",
        const=True,
    )
    annotations: str | None = option(
        None,
        optional(text()),
        help="For clips: the file that says label and part of each, such as vggsound.csv.",
        group="Data",
        flag="--split",
    )
    format: str | None = option(
        None,
        optional(one_of(names=_formats)),
        help="The format of the data, where its files do not show it: votenet, npz, ...",
        group="Data",
        flag="--format",
        default_text="found",
    )
    format_options: dict[str, Any] = option(
        dict, mapping(), help="Option of the format, such as points=4096.", group="Data", flag="--format-option"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order and (self.group or self.stratify):
            raise InputError("order says which rows are in which part; it goes with neither group nor stratify")
        if self.order and self.unlabelled:
            raise InputError("rows without a target have no place in an order of parts; use one of the two")

    @classmethod
    def of(cls, values: SourceOptions | Mapping[str, Any] | None) -> SourceOptions:
        """Read options from plain values.

        Raises:
            UnknownNameError: a key is not an option.
        """
        return values if isinstance(values, SourceOptions) else cls.from_dict(values or {})

    def given(self) -> dict[str, Any]:
        """The options that are set, as plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: list(getattr(self, name)) for name in ("target", "stratify", "transpose", "na", "keep")}
        return {name: value for name, value in values.items() if value}

    def reading(self, data: str) -> dict[str, Any]:
        """What is set of how files are read, for other files: those that are turned are told by their modality.

        >>> options = SourceOptions(modalities={"rna": "old/rna.csv"}, transpose=("rna.csv",), na=("x",), target="y")
        >>> options.reading("old/clinic.csv")
        {'transpose': ['rna'], 'na': ['x']}

        Args:
            data: the file that these options are of.
        """
        found = {name: value for name, value in self.given().items() if name in READING}
        if self.transpose:
            named = {Path(pattern.partition("::")[0]).name: m for m, pattern in self.modalities.items()}
            named.setdefault(Path(data).name, MAIN)
            found["transpose"] = [named.get(Path(entry).name, entry) for entry in self.transpose]
        return found

    def turns(self, path: Path, modality: str = MAIN) -> bool:
        """Whether a file is named among those whose rows are features."""
        return any(entry in (modality, str(path), path.name) for entry in self.transpose)

    def guiding(self) -> tuple[str, ...]:
        """The columns by which rows are split, each once."""
        names = (self.group, *self.stratify, self.order)
        return tuple(dict.fromkeys(name for name in names if name))

    def refuse(self, where: str, *allowed: str) -> None:
        """Raise an error for options that a format cannot use.

        Raises:
            InputError: an option other than ``allowed`` was given.
        """
        for name in self.given():
            if name not in (*allowed, *OF_FORMATS):
                raise InputError(f"{where} says itself what is what; it takes no option {name!r}")


def target_columns(targets: Sequence[str], columns: Sequence[str], kinds: Sequence[str] = ()) -> list[str]:
    """The columns of targets, of which one may be ``time,event``, and one may say its kind: ``grade:regression``.

    >>> target_columns(["type", "days,died", "grade:regression"], ["type", "days", "died", "grade"], ["regression"])
    ['type', 'days', 'died', 'grade']

    Args:
        targets: as they were asked for.
        columns: of the table.
        kinds: the tasks that there are.
    """
    found: list[str] = []
    for asked in targets:
        name, _, kind = asked.rpartition(":")
        name = name if kind in kinds and name and asked not in columns else asked
        found += [name] if name in columns else [column.strip() for column in name.split(",")]
    return found


def matching(columns: Sequence[str], pattern: str, where: str) -> list[str]:
    """The columns that a pattern names, in their order; a column's own name is a pattern, whatever is in it.

    Raises:
        DataError: there is none.
    """
    wanted = [part.strip() for part in pattern.split(",") if part.strip()]
    found = [c for c in columns if c in (pattern, *wanted) or any(fnmatchcase(c, part) for part in wanted)]
    if not found:
        some = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
        raise DataError(f"{where} has no column like {pattern!r}; it has {some}")
    return found


def added_to(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a source as a file has them, with those that are given beside it.

    >>> from equifuse.data.options import added_to
    >>> added_to({"format": "clips", "format_options": {"frames": 8}}, {"format_options": {"size": 32}})
    {'format': 'clips', 'format_options': {'frames': 8, 'size': 32}}

    Args:
        before: of the file; ``format_options`` of another format than the one given are dropped.
        given: what overrides them; mappings are added.
    """
    kept = dict(before)
    if given.get("format", before.get("format")) != before.get("format"):
        kept.pop("format_options", None)
    nested = {k: {**kept[k], **v} for k, v in given.items() if isinstance(v, Mapping) and k in kept}
    return {**kept, **given, **nested}
