"""``equifuse train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equifuse.cli.source import IdColumn, Modalities, SplitColumn, Targets, TaskName, source_options


def train(
    data: Annotated[str | None, typer.Option(help="Name of a data set, or path of a file or folder.")] = None,
    modality: Modalities = None,
    target: Targets = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    task: TaskName = None,
    fusion: Annotated[
        str | None, typer.Option(help="Fusion: deq, gmf, concat, gmu, bottleneck, ...  [default: deq]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<data>-<fusion>-seed<seed>.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.  [default: 0]")] = None,
    backend: Annotated[str | None, typer.Option(help="For gmf, mm_dynamics: the fusion behind it, e.g. deq.")] = None,
    dim: Annotated[int | None, typer.Option(help="Common width of deq (or of concat's projections).")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Further fusion option, key=value; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of options; those given here win.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder per modality: auto, mlp, attention, gru, ...")] = None,
    hidden: Annotated[
        list[int] | None, typer.Option(help="Width of an MLP encoder's layer; repeat for more layers.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout of the MLP encoders.")] = None,
    input_dropout: Annotated[float | None, typer.Option(help="Dropout of the input features.")] = None,
    head_dropout: Annotated[float | None, typer.Option(help="Dropout before the head.")] = None,
    embedding: Annotated[int | None, typer.Option(help="Width of a retrieval model's embedding.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="For classification.")] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh classes inversely to their frequency.")] = False,
    task_option: Annotated[
        list[str] | None, typer.Option(help="Option of the task, e.g. focal=2, loss=triplet, sentiment=true.")
    ] = None,
    modality_dropout: Annotated[float | None, typer.Option(help="Chance to hide a modality of a sample.")] = None,
    balance: Annotated[
        str | None, typer.Option(help="Balance the modalities: ogm_ge, pmr or gradient_blending.")
    ] = None,
    balance_option: Annotated[
        list[str] | None, typer.Option(help="Option of the balance, e.g. alpha=0.3; may be repeated.")
    ] = None,
    warm_start: Annotated[
        bool | None, typer.Option("--warm-start", help="Start solves from the sample's last equilibrium.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.  [default: 100]")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement to stop after.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Validation share where the set has none.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="cpu, gpu or auto.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes, or GPUs, on each machine.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="ddp, or fsdp on GPUs.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches per step of the optimiser.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, or bf16 for mixed precision.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="clean, or loose: the best epoch on test, as many papers report.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a model; the best epoch on validation is kept and measured on test."""
    from equifuse.report.tables import metrics_table, show
    from equifuse.runs import TrainConfig
    from equifuse.runs import train as run

    given = {
        "data": data,
        "source": source_options(modality, target, id_column, split_column, task) or None,
        "fusion": fusion,
        "dim": dim,
        "backend": backend,
        "encoder": encoder,
        "hidden": hidden or None,
        "dropout": dropout,
        "input_dropout": input_dropout,
        "head_dropout": head_dropout,
        "embedding": embedding,
        "label_smoothing": label_smoothing,
        "class_weights": "balanced" if balanced else None,
        "modality_dropout": modality_dropout,
        "balance": balance,
        "warm_start": warm_start,
        "seed": seed,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "val_fraction": val_fraction,
        "accelerator": accelerator,
        "protocol": protocol,
        "devices": devices,
        "nodes": nodes,
        "strategy": strategy,
        "accumulate": accumulate,
        "precision": precision,
    }
    resolved = TrainConfig.from_options(config, given, option, task_option, balance_option)
    parts = (Path(resolved.data).stem, resolved.fusion, resolved.backend, f"seed{resolved.seed}")
    folder = out or Path("runs") / "-".join(part for part in parts if part)
    try:
        result = run(resolved, folder, resume=resume, progress=not quiet)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; continue with the same options, --out {folder} and --resume", err=True)
        raise typer.Exit(130) from None
    if not result.metrics:  # another process writes, and tells
        return
    show(metrics_table(result.metrics))
    if resolved.protocol != "clean":
        typer.echo(f"note: protocol {result.metrics['protocol']}")
    typer.echo(f"run folder: {result.path}")
