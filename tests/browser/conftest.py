import numpy as np
import pytest

from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.report.run import report_run
from equifuse.runs import TrainConfig, train
from tests.browser.chromium import opened

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def browser():
    with opened() as browser:
        yield browser


@pytest.fixture(scope="session")
def hostile_run(browser, tmp_path_factory):
    """A run whose every name is an attack on a page, if it is not escaped."""
    generator, splits = np.random.default_rng(0), {}
    for part, n in (("train", 60), ("val", 40), ("test", 40)):
        y = np.arange(n) % 2
        x = {m: generator.normal(size=(n, 4)).astype(np.float32) + y[:, None] for m in (HOSTILE, "$b_{$")}
        ids = np.array([f"{part}{i}</script><script>alert(2)</script>" for i in range(n)])
        splits[part] = Split(x, {}, y, ids)
    folder = tmp_path_factory.mktemp("hostile")
    dataset = MultimodalDataset("set", splits, "classification", (HOSTILE, "$x$"))
    write_npz(folder / "set.npz", dataset)
    options = {"fusion": "concat", "hidden": [8], "head_hidden": 0, "epochs": 2}
    train(TrainConfig.from_dict({"data": str(folder / "set.npz"), **options}), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="session")
def report(hostile_run):
    """Address of the page about that run."""
    pytest.importorskip("captum", reason="needs equifuse[explain]")
    return report_run(hostile_run, samples=20).as_uri()
