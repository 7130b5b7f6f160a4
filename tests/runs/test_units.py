"""Targets in any units: what is learnt of them does not depend on their scale or their offset."""

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.runs import TrainConfig, load_run, train

SCALE, SHIFT = 2e3, 5e5


def stored(path, scale=1.0, shift=0.0):
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 120, 3))
    target = (scale * (a[:, 0] + b[:, 1]) + shift)[:, None]
    rows = np.arange(120)
    np.savez(
        path,
        modalities=np.array(["a", "b"]),
        task=np.array("regression"),
        a=a.astype(np.float32),
        b=b.astype(np.float32),
        y=target.astype(np.float32),
        train_idx=rows[:70],
        val_idx=rows[70:90],
        test_idx=rows[90:],
    )
    return str(path)


def said(config, folder):
    """What a stored run predicts of the test part, and its metrics there."""
    result = train(config, folder, progress=False)
    run = load_run(folder)
    split = ef.datasets.load(config.data).splits["test"]
    with torch.no_grad():
        prediction = run.model({m: torch.from_numpy(x) for m, x in split.inputs.items()}).prediction
    return prediction.double().numpy(), result.metrics.test


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "concat"},
        {"fusion": "late"},
        {"fusion": "gmf", "backend": "late"},
        {"fusion": "concat", "unimodal": "none", "skip": True},
        {"fusion": "mean", "balance": "gradient_blending"},
        {"fusion": "linear"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_units_of_the_target_have_no_effect(tmp_path, options):
    epochs = {} if options["fusion"] == "linear" else {"epochs": 3, "lr": 1e-2}
    found = []
    for name, units in (("plain", ()), ("large", (SCALE, SHIFT))):
        config = TrainConfig(stored(tmp_path / f"{name}.npz", *units), **epochs, **options)
        found.append(said(config, tmp_path / name))
    (plain, metrics), (large, other) = found
    assert np.ptp(plain) > 0.1
    np.testing.assert_allclose((large - SHIFT) / SCALE, plain, atol=0.02)
    assert other["mae"] == pytest.approx(SCALE * metrics["mae"], rel=0.02)
    assert other["loss"] == pytest.approx(metrics["loss"], rel=0.02)


def test_a_quantity_beside_a_class_is_learnt_in_any_units(tmp_path):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((90, 3))
    source, found = {"target": ["kind", "price"]}, []
    for name, scale, shift in (("plain", 1.0, 0.0), ("large", SCALE, SHIFT)):
        lines = [
            f"p{i},{x:.4f},{y:.4f},{z:.4f},{'old' if x > 0 else 'new'},{scale * (y + z) + shift if i % 5 else ''}"
            for i, (x, y, z) in enumerate(a)
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("id,a:x,b:y,b:z,kind,price\n" + "\n".join(lines))
        config = TrainConfig(str(path), source=source, fusion="concat", epochs=3, lr=1e-2)
        train(config, tmp_path / name, progress=False)
        run, split = load_run(tmp_path / name), ef.datasets.load(path, source=source).splits["test"]
        with torch.no_grad():
            inputs = {m: torch.from_numpy(x) for m, x in split.inputs.items()}
            found.append(run.model(inputs).prediction.double().numpy())
    plain, large = found
    np.testing.assert_allclose(large[:, :2], plain[:, :2], atol=0.02)
    np.testing.assert_allclose((large[:, 2] - SHIFT) / SCALE, plain[:, 2], atol=0.02)


def test_a_target_that_is_constant_in_training_is_refused(tmp_path):
    with pytest.raises(ef.DataError, match="one value only in 'train', 70000"):
        train(TrainConfig(stored(tmp_path / "c.npz", 0.0, 7e4), fusion="concat", epochs=1), tmp_path / "run")
