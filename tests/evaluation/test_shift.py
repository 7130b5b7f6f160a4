"""Features that moved: those that were moved, and no others, whatever is missing."""

import numpy as np
from scipy.stats import ks_2samp

from equifuse.data import Split
from equifuse.evaluation.shift import shifts


def split(n, seed, width=20):
    generator = np.random.default_rng(seed)
    return Split({"rna": generator.normal(size=(n, width)), "age": generator.normal(60, 10, size=(n, 1))})


def test_what_was_moved_is_found_and_nothing_else():
    before, now = split(300, 0), split(200, 1)
    now.inputs["rna"][:, 3] += 1.5
    now.inputs["rna"][:, 7] *= 8  # the mean stays
    now.inputs["rna"][5:, 11] = np.nan
    found = shifts(before, now, {"age": ["age"]})
    assert {(shift.modality, shift.feature) for shift in found if shift.moved} == {("rna", "3")}
    assert len(found) == 21
    by_name = {shift.feature: shift for shift in found}
    assert abs(by_name["3"].distance - 1.5) < 0.3
    assert by_name["7"].p < 1e-3
    assert by_name["11"].missing_now == 0.975
    assert by_name["age"].mean_before > 55
    x, y = before.inputs["rna"][:, 3], now.inputs["rna"][:, 3]
    assert by_name["3"].statistic == ks_2samp(x, y).statistic
    assert by_name["3"].p >= ks_2samp(x, y, method="asymp").pvalue  # corrected for the number of features


def test_rows_without_a_modality_and_padding_do_not_count():
    before = split(100, 0, 4)
    here = np.arange(100) % 2 == 0
    now = split(100, 1, 4)
    now.inputs["rna"][~here] = 99
    masked = Split(now.inputs, {"rna": here})
    assert not any(shift.moved for shift in shifts(before, masked))
    steps = np.random.default_rng(2).normal(size=(50, 6, 2))
    steps[:, 3:] = 50
    padded = Split({"audio": steps}, lengths={"audio": np.full(50, 3)})
    other = Split({"audio": np.random.default_rng(3).normal(size=(50, 3, 2))}, lengths={"audio": np.full(50, 3)})
    assert not any(shift.moved for shift in shifts(other, padded))
    assert shifts(before, padded) == []
