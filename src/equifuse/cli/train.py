"""``equifuse train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    data: Annotated[str, typer.Option(help="Name of a data set, or path of an .npz file.")] = "",
    fusion: Annotated[str, typer.Option(help="Fusion: deq, gmf, concat.")] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<data>-<fusion>-seed<seed>.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.  [default: 0]")] = None,
    backend: Annotated[str | None, typer.Option(help="For gmf: the fusion behind it, e.g. deq.")] = None,
    dim: Annotated[int | None, typer.Option(help="Common width of deq (or of concat's projections).")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Further fusion option, key=value; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options given here win.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder per modality: mlp, identity.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Widths of the MLP encoders, e.g. 256,128.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout of the MLP encoders.")] = None,
    head_dropout: Annotated[float | None, typer.Option(help="Dropout before the head.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.  [default: 100]")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement to stop after.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    modality_dropout: Annotated[float | None, typer.Option(help="Chance to drop a modality from a row.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Validation share where the set has none.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="cpu, gpu or auto.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a model; the best epoch on validation is kept and evaluated once on test."""
    from equifuse.cli.settings import fusion_options, hidden_widths, read_config
    from equifuse.report.table import metrics_table, show
    from equifuse.training import TrainConfig
    from equifuse.training import train as run

    settings: dict[str, Any] = read_config(config) if config else {}
    given = {
        "data": data or None,
        "fusion": fusion or None,
        "seed": seed,
        "encoder": encoder,
        "hidden": hidden_widths(hidden) if hidden is not None else None,
        "dropout": dropout,
        "head_dropout": head_dropout,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "modality_dropout": modality_dropout,
        "val_fraction": val_fraction,
        "accelerator": accelerator,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    chosen = fusion_options(settings.get("fusion", "deq"), backend=backend, dim=dim, pairs=option or [])
    if chosen:
        settings["fusion_options"] = {**settings.get("fusion_options", {}), **chosen}
    resolved = TrainConfig.from_dict(settings)
    name = "-".join(x for x in (Path(resolved.data).stem, resolved.fusion, backend, f"seed{resolved.seed}") if x)
    result = run(resolved, out or Path("runs") / name, resume=resume, progress=not quiet)
    show(metrics_table(result.metrics))
    typer.echo(f"run folder: {result.path}")
