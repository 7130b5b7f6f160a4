"""Regressions to measure methods on, made of sets that have another target: scores, votes, ages.

    python benchmarks/regression_sets.py ../shared/data --out runs/regressions

Writes ``diabetes`` (scikit-learn's: body measures and blood serum, progression of the disease), ``mosi_score``
(sentiment of utterances), ``cremad_votes_both`` (six shares of raters, from those that heard or saw only), ``brca_age``
and ``glioma_age`` (age at diagnosis from expression, copy numbers, mutations).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes

from equifuse import datasets
from equifuse.data import MultimodalDataset, Split

# Expression z-scores of single genes reach 36,893.
_MOST = 20.0
_PARTS = ("train", "val", "test")
_EMOTIONS = 6
# Set that is written -> set that it is made of, its modalities, its target.
SETS = {
    "mosi_score": ("mosi_utterance", ("text_cnn", "audio", "video"), "y_reg"),
    "cremad_votes_both": ("cremad_votes", ("voice", "face"), "audiovisual_votes"),
    "brca_age": ("tcga_brca_pam50", ("mrna", "cnv", "mutation"), "age"),
    "glioma_age": ("tcga_gbmlgg", ("mrna", "cnv", "mutation"), "age"),
}


def made_of(path: Path, modalities: tuple[str, ...], target: str) -> MultimodalDataset:
    """The set of a file with another target, in the file's own parts."""
    with np.load(path, allow_pickle=False) as arrays:
        inputs = {m: arrays[m].astype(np.float32) for m in modalities}
        if "mrna" in inputs:
            inputs["mrna"] = np.clip(inputs["mrna"], -_MOST, _MOST)
        values = arrays[target].reshape(len(arrays["y"]), -1)[:, :_EMOTIONS].astype(np.float32)
        return _parted(inputs, values, [arrays[f"{part}_idx"] for part in _PARTS])


def diabetes() -> MultimodalDataset:
    """scikit-learn's diabetes as two modalities, three fifths of the rows to train on."""
    columns, target = load_diabetes(return_X_y=True, scaled=False)
    inputs = {"body": columns[:, :4].astype(np.float32), "serum": columns[:, 4:].astype(np.float32)}
    order, count = np.random.default_rng(0).permutation(len(target)), len(target)
    parts = [np.sort(rows) for rows in np.split(order, [int(0.6 * count), int(0.8 * count)])]
    return _parted(inputs, target.reshape(-1, 1).astype(np.float32), parts)


def _parted(
    inputs: dict[str, NDArray[Any]], target: NDArray[np.float32], parts: list[NDArray[np.integer[Any]]]
) -> MultimodalDataset:
    splits = {
        part: Split({m: x[rows] for m, x in inputs.items()}, target=target[rows])
        for part, rows in zip(_PARTS, parts, strict=True)
    }
    return MultimodalDataset("regression", splits, "regression")


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/regressions"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    datasets.write_npz(options.out / "diabetes.npz", diabetes())
    for name, (source, modalities, target) in SETS.items():
        datasets.write_npz(options.out / f"{name}.npz", made_of(options.data / f"{source}.npz", modalities, target))


if __name__ == "__main__":
    main()
