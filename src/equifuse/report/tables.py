"""Tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from equifuse.data import MultimodalDataset
from equifuse.data.inspect import Inspection

# With more classes than this, the most and least frequent ones are shown.
_CLASSES_SHOWN = 15


class Strong(str):
    """Text to be set in bold, where there is bold."""

    __slots__ = ()


def show(table: Table) -> None:
    """Print a table to standard output."""
    Console().print(table)


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Metrics of splits side by side; other entries of ``metrics.json`` go to the caption."""
    splits = {part: values for part, values in metrics.items() if part in ("train", "val", "test")}
    table = Table(title="metrics", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for part in splits:
        table.add_column(part, justify="right")
    for key in dict.fromkeys(key for values in splits.values() for key in values):
        table.add_row(key, *(f"{values[key]:.4f}" if key in values else "" for values in splits.values()))
    notes = []
    if "parameters" in metrics:
        notes.append(f"{metrics['parameters']:,} parameters, {metrics['train_seconds']:.1f} s")
        notes.append(f"best epoch {metrics['best_epoch']} of {metrics['epochs']}")
    if metrics.get("convergence"):
        found = metrics["convergence"]
        notes.append(f"{found['converged']:.1%} converged, {found['mean_steps']:.1f} steps on average")
    table.caption = "; ".join(notes) or None
    return table


def datasets_table(sets: Iterable[MultimodalDataset]) -> Table:
    """Task, modalities with widths, and rows of each data set."""
    table = Table("name", "task", "outputs", "modalities", "train / val / test", box=box.SIMPLE_HEAD, pad_edge=False)
    for dataset in sets:
        widths = ", ".join(f"{m} {width}" for m, width in dataset.dims.items())
        rows = " / ".join(str(len(dataset.splits[part])) for part in ("train", "val", "test"))
        table.add_row(dataset.name, dataset.task, str(dataset.n_outputs or "-"), widths, rows)
    return table


def inspection_tables(found: Inspection) -> list[Table]:
    """Modalities, and the balance of the classes, of an inspected data set."""
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
            "-" if report.padded is None else f"{report.padded:.1%}",
            *(str(len(names)) for names in counts),
        )
    if not found.balance:
        return [table]
    shown = sorted(found.balance.items(), key=lambda pair: -pair[1])
    lines = [[name, f"{share:.1%}"] for name, share in shown]
    if len(lines) > _CLASSES_SHOWN:
        lines = [*lines[: _CLASSES_SHOWN - 3], ["...", ""], *lines[-2:]]
    return [table, text_table("share in train", ["class", "share"], lines)]


def text_table(title: str, header: list[str], rows: Iterable[list[str]]) -> Table:
    """Rows of text under a header; all columns but the first are aligned to the right."""
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


def export_lines(out: str, description: dict[str, Any]) -> list[str]:
    """What an exported model is and how well it agrees; see :func:`equifuse.export.export_model`."""
    solver, examples = description["solver"], description["examples"]
    where = f"{examples['count']} {'made-up samples' if examples['made_up'] else 'validation samples'}"
    lines = [f"{out}: {', '.join(description['inputs'])} -> {', '.join(description['outputs'])}"]
    if solver is not None:
        most = "at most " if solver["loop"] else ""
        lines.append(
            f"equilibrium: {most}{solver['steps']} evaluations, {solver['converged']:.1%} converged, largest relative "
            f"residual {solver['largest_residual']:.1e} (tolerance {solver['tol']:g})"
        )
    differs = f"largest difference {description['error']:.1e} from the same steps in PyTorch"
    return [*lines, f"{where}: {differs}, {description['difference']:.1e} from the model itself"]


def to_markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    marked = [[f"**{cell}**" if isinstance(cell, Strong) else cell for cell in row] for row in rows]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *marked]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
