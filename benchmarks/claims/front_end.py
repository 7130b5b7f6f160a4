"""GMF as front end of other fusions, with all modalities and with some missing."""

from __future__ import annotations

import statistics

from claim import Claim, Result, Study, TextTable, compare, contrasts, overall, score_table

BACKENDS = ["bottleneck", "perceiver", "deq"]


def run(study: Study) -> Result:
    """Train each fusion alone and behind GMF."""
    methods = [method for backend in BACKENDS for method in (backend, f"gmf+{backend}")]
    summary = compare(study, methods)
    verdicts, table = contrasts(
        summary, [(f"gmf+{backend}", backend) for backend in BACKENDS], "All modalities present."
    )
    left = summary["conditions"]
    rows = [[condition, *(f"{100 * by[method]:.1f}" for method in methods)] for condition, by in left.items()]
    kept = TextTable(["on test", *methods], rows, "Per cent of the intact score that is left.")
    steadier = sum(
        statistics.fmean(by[f"gmf+{backend}"] - by[backend] for by in left.values()) > 0 for backend in BACKENDS
    )
    verdict = f"accuracy: {overall(verdicts)}; more is left when modalities are missing: {steadier} of {len(BACKENDS)}"
    return Result(verdict, [score_table(summary), table, kept])


CLAIM = Claim(
    "front_end",
    "GMF as front end improves other fusion modules, and their robustness to missing modalities.",
    "Xiong et al. 2024, with MBT and Perceiver on VGGSound",
    "Eight data sets, the same encoders and settings for all; on test, modalities hidden with rate one "
    "half, and each taken away in turn. No training with missing modalities.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
