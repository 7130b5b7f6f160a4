"""GMF alone against attention-based fusion, accuracy and cost."""

from __future__ import annotations

from claim import Claim, Result, Study, TextTable, compare, contrasts, overall, score_table

# Attention from one modality to another has a single key here and would be an affine map: no cross-attention.
OTHERS = ["self_attention", "bottleneck", "perceiver"]


def run(study: Study) -> Result:
    """Train GMF and three attention-based fusions behind the same encoders."""
    summary = compare(study, ["gmf", *OTHERS])
    verdicts, table = contrasts(summary, [("gmf", other) for other in OTHERS])
    costs, base = summary["costs"], summary["costs"]["gmf"]
    rows = [
        [
            label,
            f"{cost['parameters']:,.0f} ({cost['parameters'] / base['parameters']:.2f})",
            f"{cost['flops']:,.0f} ({cost['flops'] / base['flops']:.2f})",
        ]
        for label, cost in costs.items()
    ]
    cheaper = all(costs[other]["flops"] > base["flops"] for other in OTHERS)
    smaller = all(costs[other]["parameters"] > base["parameters"] for other in OTHERS)
    words = overall(verdicts).replace("not shown", "no difference beyond chance")
    verdict = f"accuracy: {words}; fewer FLOPs than all: {'yes' if cheaper else 'no'}; "
    verdict += f"fewer parameters than all: {'yes' if smaller else 'no'}"
    costs_table = TextTable(["method", "parameters (relative)", "FLOPs per sample (relative)"], rows, "Whole models.")
    return Result(verdict, [score_table(summary), table, costs_table])


CLAIM = Claim(
    "attention",
    "GMF with plain concatenation is as accurate as attention-based fusion at a fraction of its parameters and FLOPs.",
    "Xiong et al. 2024, VGGSound",
    "Eight data sets, one vector per modality, the same encoders and settings for all, encoders counted "
    "in; self-attention over the modalities, bottleneck transformer and Perceiver-style latents. "
    "The paper compares on sequences of audio and video features, where attention costs more.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
