"""Samples that an outsider might pass: what is wrong is said in one line."""

import numpy as np
import pandas as pd
import pytest

import equifuse as ef

ROWS = 24
Y = np.arange(ROWS) % 2


def samples(**more):
    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    return {"a": pd.DataFrame(x, columns=list("xyz")).assign(**more), "b": pd.DataFrame(x[:, :1], columns=["u"])}


def fit(X=None, y=Y, kind=ef.FusionClassifier):
    return kind(fusion="mean", epochs=1).fit(samples() if X is None else X, y)


WORDS = np.array(["p", "q", None] * 8, dtype=object)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: fit(samples(d=[[1, 2]] * ROWS)), "column 'd' has several values in a cell"),
        (lambda: fit(samples(d=[{"q": 1}] * ROWS)), "column 'd' has several values in a cell"),
        (lambda: fit({m: x.iloc[:0] for m, x in samples().items()}, []), "X has no rows"),
        (lambda: fit(y=WORDS), "y has no label in 8 of 24 rows, the first is 2"),
        (lambda: fit(y=np.array(["one"] * ROWS), kind=ef.FusionRegressor), "y must be numbers, got 'one'"),
        (lambda: fit(y=np.array([None, 1.0] * 12), kind=ef.FusionRegressor), "y has no value in 12 of 24 rows"),
    ],
)
def test_a_mistake_is_said(mistake, said):
    with pytest.raises((ef.DataError, ef.InputError), match=said) as refused:
        mistake()
    assert "np." not in str(refused.value)
