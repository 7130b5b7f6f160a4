"""How often estimates of information err: on shuffled labels, and with interactions that are not there or are missed.

    python benchmarks/information_errors.py --out runs/information_errors

Interactions are known: beside columns of noise, each modality has a column that goes with the label by itself
(given the label independent of all else: evidence that late fusion has, too), and one that says nothing alone:
``r + noise`` in the one and ``(r xor y) + noise`` in the other, for a hidden bit ``r``. Half of the draws choose the
threshold of the verdict, the other half say how often it errs. Each draw is kept in ``--out``, and none is repeated.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from equifuse import datasets
from equifuse.files import read_json, write_json, write_text
from equifuse.information import interactions
from equifuse.report.tables import TextTable

NOISE = 4
# Samples, how far evidence and the hidden bit move their columns (in deviations of the noise).
SIZES, EVIDENCE, HIDDEN = (200, 1000), (0.0, 0.8), (0.0, 0.7, 1.0, 1.5)
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2)
_LEAST = 0.02


def made(n: int, evidence: float, hidden: float, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of two modalities, and labels."""
    generator = np.random.default_rng(seed)
    y, r = generator.integers(0, 2, (2, n))
    inputs = {}
    for name, bit in (("a", r), ("b", r ^ y)):
        columns = [evidence * (2 * y - 1), hidden * (2 * bit - 1), *np.zeros((NOISE, n))]
        inputs[name] = (np.stack(columns, 1) + generator.normal(size=(n, 2 + NOISE))).astype(np.float32)
    return inputs, y.astype(np.int64)


def dataset(inputs: dict[str, np.ndarray], y: np.ndarray) -> datasets.MultimodalDataset:
    """All of them as training and validation samples."""
    split = datasets.Split(inputs, target=y)
    rows, cut = np.arange(len(y)), 4 * len(y) // 5
    parts = {"train": split.select(rows[:cut]), "val": split.select(rows[cut:]), "test": split.select(rows[:cut])}
    return datasets.MultimodalDataset("made", parts, "classification")


def true_interaction(evidence: float, hidden: float, n: int = 400_000) -> float:
    """Bits beyond the best of either alone and of both asked one by one, by the densities."""
    inputs, y = made(n, evidence, hidden, 10**6)
    (e, h), (f, g) = (x[:, :2].astype(np.float64).T for x in inputs.values())
    # log p(x | y = 1) - log p(x | y = 0): of a Gaussian that moves by ± evidence, and of the pair by the hidden bit.
    alone = 2 * evidence * e, 2 * evidence * f
    same, other = np.cosh(hidden * (h + g)), np.cosh(hidden * (h - g))
    both = np.log(other) - np.log(same)

    def bits(odds: np.ndarray) -> float:
        return 1 - float(np.logaddexp(0, np.where(y == 1, -odds, odds)).mean()) / math.log(2)

    late = bits(alone[0] + alone[1])
    return bits(alone[0] + alone[1] + both) - max(bits(alone[0]), bits(alone[1]), late)


def shuffled(out: Path, draws: int, until: float) -> list[float]:
    """Bits that 1,000 samples of noise say about labels that have nothing to do with them, one value a draw."""
    found = []
    for seed in range(draws):
        path = out / "shuffled" / f"{seed}.json"
        if not path.is_file():
            if time.monotonic() > until:
                break
            generator = np.random.default_rng(seed)
            inputs = {m: generator.normal(size=(1000, 10)).astype(np.float32) for m in "ab"}
            measured = interactions(dataset(inputs, generator.integers(0, 2, 1000)))
            write_json(path, measured.to_dict())
        found.append(float(read_json(path)["joint"]))
    return found


def simulated(out: Path, draws: int, until: float) -> Iterator[tuple[int, float, float, int, dict]]:
    """Samples, evidence, hidden, draw and the pair that was measured."""
    for seed in range(draws):
        for n in SIZES:
            for evidence in EVIDENCE:
                for hidden in HIDDEN:
                    path = out / "simulated" / f"{n}-{evidence}-{hidden}-{seed}.json"
                    if not path.is_file():
                        if time.monotonic() > until:
                            return
                        write_json(path, interactions(dataset(*made(n, evidence, hidden, seed))).to_dict())
                    yield n, evidence, hidden, seed, read_json(path)


def said(found: dict, threshold: float) -> bool:
    """Whether the verdict's rule calls it an interaction; see ``equifuse.information.verdict``."""
    pair = found["pairs"][0]
    least = max(_LEAST, found["baseline"] or 0.0)
    sure = pair["intervals"]["interaction"][0] > least / 2
    return sure and pair["interaction"] >= max(least, threshold * pair["joint"])


def tables(out: Path, draws: int, minutes: float) -> str:
    """All of it in words and tables."""
    until = time.monotonic() + 60 * minutes
    every = list(simulated(out, draws, until))
    chance = shuffled(out, 5 * draws, until)
    truth = {(e, h): true_interaction(e, h) for e in EVIDENCE for h in HIDDEN}
    rows = []
    for n in SIZES:
        for (e, h), bits in truth.items():
            mine = [f for m, f_e, f_h, _, f in every if (m, f_e, f_h) == (n, e, h)]
            if mine:
                estimates = [f["pairs"][0]["interaction"] for f in mine]
                told = sum(said(f, 0.05) for f in mine)
                mean, spread = np.mean(estimates), np.std(estimates)
                rows.append([str(n), f"{e:g}", f"{bits:.3f}", f"{mean:.3f} ± {spread:.3f}", f"{told} of {len(mine)}"])
    lines = []
    for threshold in THRESHOLDS:
        cells = [f"{threshold:g}"]
        for half in (0, 1):
            some = [(truth[e, h], n, said(f, threshold)) for n, e, h, seed, f in every if seed % 2 == half]
            false = [told for bits, _, told in some if bits < 0.005]
            missed = [not told for bits, n, told in some if bits >= 0.09 and n == 1000]
            cells += [f"{sum(false)} of {len(false)}", f"{sum(missed)} of {len(missed)}"]
        lines.append(cells)
    parts = [
        "Pairs of which all is known: what the verdict calls an interaction (threshold 0.05), by the true bits.\n",
        TextTable(["n", "evidence", "true interaction", "estimate", "said to interact"], rows).markdown(),
        "\nThe share of what a pair says that its interaction must be, chosen on half of the draws and tried on the "
        "other: false alarms are where the true interaction is 0, misses where it is at least 0.09 bits and n is "
        "1,000.\n",
        TextTable(["threshold", "false alarms", "missed", "the same, other half", ""], lines).markdown(),
    ]
    if chance:
        within = sum(x <= 0.02 for x in chance)
        parts.append(
            "\nOf labels that have nothing to do with 2 modalities of 10 columns, n = 1,000: at most 0.02 bits in "
            f"{within} of {len(chance)} draws, median {np.median(chance):.4f}, 95 % {np.quantile(chance, 0.95):.4f}, "
            f"highest {max(chance):.4f}."
        )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/information_errors"))
    parser.add_argument("--draws", type=int, default=20, help="of each case, and five times as many of shuffled labels")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which nothing is begun")
    options = parser.parse_args()
    text = tables(options.out, options.draws, options.minutes)
    write_text(options.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
