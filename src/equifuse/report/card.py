"""The model card of a training run, as the Hugging Face hub shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from equifuse.report.alone import alone_text
from equifuse.report.tables import number, to_markdown
from equifuse.runs.metrics import Convergence, RunMetrics

if TYPE_CHECKING:  # it stands above this package
    from equifuse.runs.folder import Run

_CARD = """---
library_name: equifuse
tags:
- multimodal
- {fusion}
---

# {title}

{task} from {count} modalities by the fusion `{fusion}`, with {parameters:,} parameters. Preprocessing is part of the
model: it takes raw features.

## Data

{data}: {rows}. {split}

{modalities}

## Results

Model selection looked at the validation part only; the test part was measured once, with the selected weights. Seed
{seed}; of {epochs} epochs the weights are those of number {best}.

{metrics}
{without}{alone}{convergence}
## Use

```python
import equifuse as ef

model = ef.FusionModel.from_pretrained("OWNER/NAME")  # or a local folder
output = model({{{call}}})  # tensors (B, *shape); leave out or mask (present=) what is missing
output.prediction
```

## Fusion

{options}

Trained with {versions}.

## Licence

Not stated. Whoever publishes this model chooses its licence, with regard to that of the data.
"""


def model_card(run: Run) -> str:
    """The model card of a training run, in the form of the Hugging Face hub: data, results, convergence and use.

    >>> from equifuse.runs import TrainConfig, load_run, train
    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> model_card(load_run(run)).startswith("---")
    True

    >>> run = ef.runs.load_run("run")  # doctest: +SKIP
    >>> card = model_card(run)  # doctest: +SKIP

    Local paths are left out, and no licence is stated.

    Args:
        run: a finished run, of :func:`equifuse.runs.load_run`.

    Raises:
        DataError: its ``metrics.json`` is damaged.
    """
    metrics = RunMetrics.read(run.path / "metrics.json")
    data, config = run.record["data"], run.config
    shapes = [[m, " × ".join(str(size) for size in shape)] for m, shape in data["shapes"].items()]
    options = {name: value for name, value in run.record["fusion"].items() if name not in ("name", "dims")}
    return _CARD.format(
        fusion=config.fusion,
        title=f"{config.fusion} on {data['name']}",
        task=data["task"].capitalize(),
        count=len(shapes),
        parameters=metrics.parameters,
        data=data["name"],
        rows=", ".join(f"{count} {part}" for part, count in data["rows"].items()),
        split=f"Where the set has no validation part, {config.val_fraction:.0%} of the training part were held out.",
        modalities=to_markdown(["modality", "shape"], shapes),
        seed=config.seed,
        epochs=metrics.epochs,
        best=metrics.best_epoch,
        metrics=_results(metrics),
        without=_without(metrics.without, run.task.headline),
        alone=alone_text(metrics, run.task.headline),
        convergence=_convergence(metrics.convergence),
        call=", ".join(f'"{m}": {_identifier(m)}' for m in data["shapes"]),
        options=to_markdown(["option", "value"], [[name, f"`{value}`"] for name, value in options.items()]),
        versions=", ".join(f"{name} {number}" for name, number in run.record["versions"].items()),
    )


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "..."


def _results(metrics: RunMetrics) -> str:
    names = list(metrics.test)
    parts = {part: values for part, values in (("val", metrics.val), ("test", metrics.test)) if values is not None}
    rows = [[part, *(number(values.get(name), ".4g") for name in names)] for part, values in parts.items()]
    return to_markdown(["part", *names], rows)


def _without(scores: Mapping[str, float | None], metric: str) -> str:
    if not scores:
        return ""
    rows = [[m, number(score, ".4g")] for m, score in scores.items()]
    return "\n" + to_markdown(["taken away from every test sample", metric], rows)


def _convergence(found: Convergence | None) -> str:
    if found is None:
        return ""
    return (
        f"\nThe equilibria of {found.converged:.1%} of the test samples converged, in {found.mean_steps:.1f} "
        f"evaluations on average and {found.max_steps:.0f} at most; the largest relative residual is "
        f"{found.max_residual:.1e}.\n"
    )
