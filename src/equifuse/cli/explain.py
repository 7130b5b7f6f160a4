"""``equifuse explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    information: Annotated[
        bool, typer.Option("--information", help="Bits about the target at every stage of the model.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Samples to explain, at most.", min=20)] = 2000,
    out: Annotated[Path | None, typer.Option(help="Folder to create: JSON, and a page with --information.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what each modality contributed on test or, with --information, what each stage knows of the target."""
    import json

    from equifuse.files import refuse_existing
    from equifuse.report.explained import plain, show_explained, write_explained
    from equifuse.runs.explain import explain_run, flow_of_run

    if out is not None:
        refuse_existing(out)
    found = flow_of_run(run, samples) if information else explain_run(run, samples)
    if as_json:
        typer.echo(json.dumps(plain(found), indent=1))
    else:
        show_explained(found)
    if out is not None:
        write_explained(found, out)
        if not as_json:
            typer.echo(f"written: {out}")
