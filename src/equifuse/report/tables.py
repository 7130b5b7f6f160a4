"""Tables: rows of text that a terminal, Markdown, a page and a notebook show alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equifuse._display import html_table
from equifuse.data import MultimodalDataset
from equifuse.data.inspect import Inspection
from equifuse.evaluation.robustness import RobustnessReport
from equifuse.extras import require

if TYPE_CHECKING:  # it takes a moment to import, and pages do without
    from rich.table import Table

    from equifuse.data.questions import Scores
    from equifuse.evaluation.survival import SurvivalScores
    from equifuse.explain import Marker
    from equifuse.export.description import ExportDescription
    from equifuse.runs import CrossValidation, Distilled, FineTuned, Measured, Spread

# In place of a number that there is not.
NONE = "–"
# With more classes than this, the most and least frequent ones are shown.
_CLASSES_SHOWN = 15
_PARTS = ("train", "val", "test")
_NUMERIC = re.compile(rf"$|{NONE}$|[<+−-]?[ ]?[0-9.]")


class Strong(str):
    """Text to be set in bold, where there is bold."""

    __slots__ = ()


class Shaded(str):
    """Text on a ground that is the darker the larger its share is; a page shows it so.

    Example:
        >>> Shaded("12", 0.25).percent
        '25'
    """

    __slots__ = ("percent",)
    percent: str

    def __new__(cls, text: str, share: float) -> Shaded:
        """Text, and its share in [0, 1]."""
        made = super().__new__(cls, text)
        made.percent = f"{100 * share:.0f}"
        return made


@dataclass(frozen=True)
class TextTable:
    """Rows of text under a header; the first column is left-aligned, :class:`Strong` cells are bold.

    A notebook shows it as a table.

    Example:
        >>> print(TextTable(["method", "accuracy"], [["deq", "0.98"]], "test part").markdown())
        | method | accuracy |
        | --- | ---: |
        | deq | 0.98 |
        <BLANKLINE>

    Attributes:
        header: names of the columns.
        rows: as long as the header each.
        caption: what the table says.
        file: under which a page offers it for download; "" for not at all.
        searched: whether a page offers to search it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    file: str = ""
    searched: bool = False

    @property
    def aligned(self) -> list[str]:
        """Of each column, whether it is of words or of numbers, which are aligned to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return ["number" if all(_NUMERIC.match(cell) for cell in column) else "word" for column in columns]

    def markdown(self) -> str:
        """The table as Markdown, without its caption."""
        return to_markdown(self.header, self.rows)

    def _repr_html_(self) -> str:
        return html_table(self.caption, self.header, self.rows)


def number(value: float | None, form: str = ".4f") -> str:
    """A number as text, and a dash where there is none.

    Example:
        >>> number(0.98765), number(None), number(float("nan"))
        ('0.9877', '–', '–')
    """
    return NONE if value is None or math.isnan(value) else format(value, form)


def show(table: Table | TextTable) -> None:
    """Print a table to standard output, and what its caption says below it, as wide as the terminal."""
    require("train", "rich", "a table")
    from rich.console import Console  # noqa: PLC0415

    shown = table if not isinstance(table, TextTable) else text_table(table.caption, table.header, table.rows)
    said, shown.caption = shown.caption, None
    console = Console()
    console.print(shown)
    if said:
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    shown.caption = said


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Metrics of splits side by side; other entries of ``metrics.json``, and what is undefined, go to the caption."""
    require("train", "rich", "a table")
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    splits = {part: values for part, values in metrics.items() if part in _PARTS}
    table = Table(title="metrics", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for part in splits:
        table.add_column(part, justify="right")
    for key in dict.fromkeys(key for values in splits.values() for key in values):
        table.add_row(key, *(number(values[key]) if key in values else "" for values in splits.values()))
    notes = undefined_notes(metrics.get("undefined"))
    if "parameters" in metrics:
        notes.append(f"{metrics['parameters']:,} parameters, {metrics['train_seconds']:.1f} s")
        notes.append(f"best epoch {metrics['best_epoch']} of {metrics['epochs']}")
    if metrics.get("convergence"):
        found = metrics["convergence"]
        notes.append(f"{found['converged']:.1%} converged, {found['mean_steps']:.1f} steps on average")
    table.caption = "; ".join(notes) or None
    return table


def undefined_notes(undefined: Mapping[str, Mapping[str, str]] | None) -> list[str]:
    """A line for each metric that a part of the data leaves undefined.

    Example:
        >>> undefined_notes({"val": {"auc": "one class only"}, "test": {}})
        ['auc on val: one class only']
    """
    return [f"{metric} on {part}: {why}" for part, by in (undefined or {}).items() for metric, why in by.items()]


def datasets_table(sets: Iterable[MultimodalDataset]) -> Table:
    """Task, modalities with widths, and rows of each data set."""
    require("train", "rich", "a table")
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("name", "task", "outputs", "modalities", "train / val / test", box=box.SIMPLE_HEAD, pad_edge=False)
    for dataset in sets:
        widths = ", ".join(f"{m} {width}" for m, width in dataset.dims.items())
        rows = " / ".join(str(len(dataset.splits[part])) for part in _PARTS)
        table.add_row(dataset.name, dataset.task, str(dataset.n_outputs or NONE), widths, rows)
    return table


def inspection_tables(found: Inspection) -> list[Table]:
    """Modalities, and the balance of the classes, of an inspected data set."""
    require("train", "rich", "a table")
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    rows = ", ".join(f"{count} {part}" for part, count in found.rows.items())
    table = Table(title=f"{found.name}: {found.task}; {rows}", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(["modality", "shape", "missing %", "padding", "constant", "repeated", "telling"]):
        table.add_column(name, justify="left" if i < 2 else "right")
    for m, report in found.modalities.items():
        counts = (report.constant, report.duplicated, report.leaking)
        table.add_row(
            m,
            " x ".join(str(size) for size in report.shape),
            " / ".join(f"{100 * share:.1f}" for share in report.missing.values()),
            number(report.padded, ".1%"),
            *(str(len(names)) for names in counts),
        )
    if not found.balance:
        return [table]
    shown = sorted(found.balance.items(), key=lambda pair: -pair[1])
    lines = [[name, f"{share:.1%}"] for name, share in shown]
    if len(lines) > _CLASSES_SHOWN:
        lines = [*lines[: _CLASSES_SHOWN - 3], ["...", ""], *lines[-2:]]
    return [table, text_table("share in train", ["class", "share"], lines)]


def robustness_table(report: RobustnessReport) -> TextTable:
    """A line for each thing that was done to the samples of each run: the score, and its change from the intact one."""
    rows = []
    for label, found in report.runs.items():
        lines: list[tuple[str, float, float]] = [("nothing", found.intact, 0.0)]
        lines += [(f"only {kept}", value, 0.0) for kept, value in found.subsets.items()]
        lines += [(f"missing rate {rate}", *spread) for rate, spread in found.missing.items()]
        lines += [(f"{m} {what}", *spread) for m, levels in found.corrupted.items() for what, spread in levels.items()]
        for what, value, deviation in lines:
            shown = number(value) + (f" ± {deviation:.4f}" if deviation > 0 else "")
            change = value - found.intact
            rows.append([label, what, shown, NONE if math.isnan(change) else f"{change:+.4f}"])
    title = f"{report.metric} on {report.split}"
    reasons = {why for found in report.runs.values() for why in (found.undefined or {}).values()}
    return TextTable(
        ["run", "what is done", "value", "change"],
        rows,
        "; ".join([title, *(f"{NONE}: {why}" for why in sorted(reasons))]),
    )


def measured_tables(found: Measured) -> list[TextTable]:
    """Metrics with intervals and a baseline, each class, and each value of a column."""
    header = ["metric", "value", "95 % interval", *(["without features"] if found.baseline else [])]
    rows = []
    for name, value in found.metrics.items():
        known = [number(found.baseline.get(name))] if found.baseline else []
        rows.append([name, number(value), interval_text(found.intervals.get(name)), *known])
    blank = [""] * (len(header) - 2)
    rows += [[name, number(value, ".4g"), *blank] for name, value in (found.convergence or {}).items()]
    notes = [f"{name}: {why}" for name, why in found.undefined.items()]
    tables = [TextTable(header, rows, "; ".join([f"{found.n} samples", *notes]))]
    if found.by_class:
        lines = [
            [c.name, str(c.n), str(c.predicted), *map(number, (c.precision, c.recall, c.f1))] for c in found.by_class
        ]
        tables.append(TextTable(["class", "samples", "predicted", "precision", "recall", "F1"], lines, "each class"))
    if found.confusion_matrix is not None and found.classes and len(found.classes) <= _CLASSES_SHOWN:
        lines = [[name, *map(str, row)] for name, row in zip(found.classes, found.confusion_matrix, strict=True)]
        tables.append(TextTable(["class", *found.classes], lines, "samples of each class, by predicted class"))
    if found.alone:
        lines = [[m, number(values.get(found.headline))] for m, values in found.alone.items()]
        tables.append(TextTable(["modality", found.headline], lines, "each modality alone, by the same model"))
    if found.by:
        name = found.headline
        lines = [
            [value, str(part.n), number(part.metrics.get(name)), interval_text(part.intervals.get(name))]
            for value, part in found.by.items()
        ]
        tables.append(TextTable(["rows of", "samples", name, "95 % interval"], lines))
    if found.survival is not None:
        tables.append(_survival_table(found.survival))
    return tables


def _survival_table(found: SurvivalScores) -> TextTable:
    rows = [[f"{name}: events of samples", f"{curve.events} of {curve.n}", ""] for name, curve in found.curves.items()]
    for name, ratio in (
        ("hazard ratio, high to low risk", found.hazard_ratio),
        ("hazard ratio per deviation of risk", found.hazard_ratio_per_deviation),
    ):
        if ratio is not None:
            rows.append([name, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"])
    rows.append(["log-rank test, p", NONE if found.log_rank is None else f"{found.log_rank:.2g}", ""])
    rows.append(["AUC over time, mean", number(found.mean_auc), ""])
    reference = "" if found.brier_reference is None else f"{found.brier_reference:.4f} without features"
    rows.append(["integrated Brier score", number(found.brier), reference])
    return TextTable(
        ["survival", "value", "95 % interval"], rows, f"high risk: above {found.cut:.3g}, the training median"
    )


def interval_text(ends: Sequence[float] | None) -> str:
    """Both ends of an interval, and a dash where there is none."""
    return NONE if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def finetuned_table(found: FineTuned) -> TextTable:
    """Metrics on the test part of the new data, before and after."""
    rows = [[name, number(value), number(found.after.get(name))] for name, value in found.before.items()]
    epochs = ", ".join(f"{stage} {count} epochs" for stage, count in found.epochs.items())
    return TextTable(["metric", "before", "after"], rows, f"test part of the new data; {epochs}")


def distilled_table(found: Distilled) -> TextTable:
    """A teacher and its student: the headline metric with its interval, size and time."""
    rows = []
    for part in found.parts:
        rows.append([f"{found.metric}, {part.part}", number(part.teacher), number(part.student)])
        if part.teacher_interval is not None and part.student_interval is not None:
            rows.append(["  95 % interval", _ends(part.teacher_interval), _ends(part.student_interval)])
        if part.difference is not None:
            rows.append(["  better by", "", _ends(part.difference, "+.4f")])
    sizes, times = found.parameters, found.milliseconds
    rows.append(["parameters", f"{sizes['teacher']:,}", f"{sizes['student']:,}"])
    rows.append(["ms per sample", f"{times['teacher']:.3f}", f"{times['student']:.3f}"])
    return TextTable(["", "teacher", "student"], rows, "what the student keeps")


def _ends(ends: tuple[float, float], form: str = ".4f") -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"


def markers_table(found: Sequence[Marker], top: int) -> TextTable:
    """The most important features of each class or target."""
    rows = [
        [
            m.output,
            str(m.rank_overall),
            m.modality,
            m.feature,
            f"{m.importance:.3g}",
            f"{m.direction:+.3g}",
            f"{m.share:.1%}",
        ]
        for m in found
        if m.rank_overall <= top
    ]
    header = ["for", "rank", "modality", "feature", "importance", "direction", "share"]
    return TextTable(header, rows, f"the first {top} features")


def folds_table(found: CrossValidation) -> TextTable:
    """Mean, interval and range of every metric over the folds, and on a test part that no fold has."""
    header = ["metric", "mean", "95 % interval", "lowest", "highest"]
    rows = [[name, *_spread(spread)] for name, spread in found.metrics.items()]
    rows += [[f"{name} on test", *_spread(spread)] for name, spread in (found.test or {}).items()]
    times = f", {found.repeats} times" if found.repeats > 1 else ""
    notes = [f"{name}, not in every fold: {why}" for name, why in found.undefined.items()]
    return TextTable(header, rows, "; ".join([f"{found.folds} folds of {found.rows} rows{times}", *notes]))


def _spread(found: Spread) -> list[str]:
    known = [value for value in found.by_fold if value is not None]
    return [
        number(found.mean),
        interval_text(found.interval),
        number(min(known, default=None)),
        number(max(known, default=None)),
    ]


def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows of text under a header; all columns but the first are aligned to the right."""
    require("train", "rich", "a table")
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def plus_minus(mean_and_deviation: Sequence[float], scale: float = 100) -> str:
    """``"98.1 ± 0.3"`` of ``(0.981, 0.003)``."""
    mean, deviation = mean_and_deviation
    return f"{mean * scale:.1f} ± {deviation * scale:.1f}"


def export_lines(out: str, description: ExportDescription) -> list[str]:
    """What an exported model is and how well it agrees; see :func:`equifuse.export.export_model`."""
    solver, examples = description.solver, description.examples
    where = f"{examples.count} {'made-up samples' if examples.made_up else 'validation samples'}"
    lines = [f"{out}: {', '.join(description.inputs)} -> {', '.join(description.outputs)}"]
    if solver is not None:
        most = "at most " if solver.loop else ""
        lines.append(
            f"equilibrium: {most}{solver.steps} evaluations, {solver.converged:.1%} converged, largest relative "
            f"residual {solver.largest_residual:.1e} (tolerance {solver.tol:g})"
        )
    differs = f"largest difference {description.error:.1e} from the same steps in PyTorch"
    return [*lines, f"{where}: {differs}, {description.difference:.1e} from the model itself"]


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    marked = [[f"**{cell}**" if isinstance(cell, Strong) else cell for cell in row] for row in rows]
    lines = [list(header), ["---"] + ["---:"] * (len(header) - 1), *marked]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def scores_table(scores: Scores) -> TextTable:
    """The official accuracies of answers to questions about images, in percent."""
    rows = [["overall", f"{scores.overall:.2f}"]]
    rows += [[f"answer: {name}", f"{value:.2f}"] for name, value in scores.answer_types.items()]
    rows += [[f"question: {name}", f"{value:.2f}"] for name, value in scores.question_types.items()]
    return TextTable(["questions", "accuracy"], rows, f"{scores.questions:,} questions")
