"""Convergence of the equilibrium against weight-tied recursion."""

from __future__ import annotations

import statistics
import warnings

from claim import Claim, Result, Study, TextTable, compare, contrasts, overall, score_table

import equifuse as ef
from equifuse.data.loaders import batches_of
from equifuse.runs import TrainConfig, load_run, train

TIED = [
    {"label": f"{k} applications", "fusion": "weight_tied", "fusion_options": {"iterations": k}} for k in (2, 4, 8, 16)
]
EVALUATIONS = (2, 4, 8, 16, 32)
WATCHED = ("rosmap", "handwritten", "mosi_utterance")


def run(study: Study) -> Result:
    """Accuracy of both, and how far from a fixed point each is after as many evaluations."""
    summary = compare(study, ["deq", *TIED])
    verdicts, table = contrasts(summary, [("deq", str(method["label"])) for method in TIED])
    found = summary["convergence"]
    ends = TextTable(
        ["method", "evaluations", "samples within 1e-4", "largest residual"],
        [[m, f"{c['steps']:.1f}", f"{100 * c['converged']:.1f} %", f"{c['residual']:.1e}"] for m, c in found.items()],
        "On test, after training.",
    )
    residuals = _residuals(study)
    settled = found["deq"]["converged"] > max(c["converged"] for m, c in found.items() if m != "deq")
    verdict = f"converges where recursion does not: {'holds' if settled else 'does not hold'}; "
    return Result(verdict + f"more accurate: {overall(verdicts)}", [score_table(summary), table, ends, residuals])


def _residuals(study: Study) -> TextTable:
    """Median relative residuals of one trained model per data set after so many evaluations, applied plainly or not."""
    rows = []
    for name in WATCHED:
        path, folder = study.data / f"{name}.npz", study.out / "trained" / name
        if not path.is_file():
            continue
        config = TrainConfig.from_dict({"data": str(path), "fusion": "deq", **study.settings})
        train(config, folder, resume=(folder / "config.yaml").is_file(), progress=False)
        opened = load_run(folder)
        batch = next(iter(batches_of(opened.dataset().splits["test"])))
        for label, solver in (("applied again and again", ef.Picard), ("Anderson", ef.Anderson)):
            medians = []
            for count in EVALUATIONS:
                opened.model.fusion.solver = solver(tol=1e-12, max_steps=count)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ef.ConvergenceWarning)
                    stats = opened.model(batch.inputs, batch.present).fusion.stats
                medians.append(statistics.median(stats.residual.tolist()))
            rows.append([f"{name}, {label}", *(f"{value:.1e}" for value in medians)])
    header = ["median relative residual after", *(f"{count} evaluations" for count in EVALUATIONS)]
    return TextTable(header, rows, "The same trained DEQ models, solved in two ways.")


CLAIM = Claim(
    "recursion",
    "The equilibrium converges, where applying the same map several times does not, and is more accurate.",
    "Ni et al. 2023, convergence of DEQ fusion against weight-tied recursion",
    "Eight data sets, the same encoders and settings for all; recursion trained with 2 to 16 applications. "
    "Residuals are relative and per sample.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
