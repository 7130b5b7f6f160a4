"""A modality is predicted from the others: what depends on them is found, what does not is no worse than the mean."""

import numpy as np
import pytest
from pyarrow import csv

import equifuse as ef
from equifuse.runs import TrainConfig, impute_run, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Modality b: its first feature is of a, its second is noise; missing in every fifth row."""
    generator = np.random.default_rng(0)
    a = generator.normal(size=(240, 3))
    b = np.stack([2 * a[:, 0] - a[:, 1] + 10, generator.normal(size=240)], axis=1)
    lines = ["id,label,a:0,a:1,a:2,b:known,b:noise"]
    for i in range(240):
        values = ["", ""] if i % 5 == 0 else [str(v) for v in b[i]]
        lines.append(f"r{i},{'yes' if a[i, 0] > 0 else 'no'}," + ",".join([*map(str, a[i]), *values]))
    folder = tmp_path_factory.mktemp("impute")
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    config = TrainConfig(str(folder / "t.csv"), fusion="gmf", hidden=(16,), dropout=0.0, epochs=5, lr=0.01)
    train(config, folder / "run", progress=False)
    return folder / "run", b


def test_what_the_others_know_is_predicted_and_what_is_measured_stays(run, tmp_path):
    folder, b = run
    found = impute_run(folder, "b", out=tmp_path / "b.csv")
    assert found.r2["b:known"] > 0.7
    assert set(found.errors) == {"fused vector", "reconstruction"}
    assert found.errors[found.through] == min(found.errors.values()) < 1
    assert -0.3 < found.r2["b:noise"] < 0.3
    row = np.array([int(name[1:]) for name in found.about["id"]])
    assert (found.imputed == (row % 5 == 0)).all()
    np.testing.assert_allclose(found.values[~found.imputed], b[row[~found.imputed]], rtol=1e-5)
    gap = found.values[found.imputed, 0] - b[row[found.imputed], 0]
    assert np.mean(gap**2) < 0.4 * b[:, 0].var()
    table = csv.read_csv(tmp_path / "b.csv").to_pydict()
    assert list(table) == ["id", "part", "imputed", "b:known", "b:noise"]
    (tmp_path / "new.csv").write_text("id,a:0,a:1,a:2\nn1,1.5,0,0\nn2,-1.5,0,0\n")
    new = impute_run(folder, "b", str(tmp_path / "new.csv"))
    assert new.imputed.all()
    assert new.values[0, 0] > 10 > new.values[1, 0]


def test_mistakes(run):
    with pytest.raises(ef.UnknownNameError, match="unknown modality 'c'"):
        impute_run(run[0], "c")
