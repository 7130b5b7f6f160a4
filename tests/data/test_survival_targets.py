"""Times and events as people write them."""

import numpy as np
import pytest

import equifuse as ef

N = 60
TIME = np.random.default_rng(0).exponential(20, N).round(1) + 0.1
EVENT = np.arange(N) % 3 == 0


def table(folder, names, time=TIME, event=EVENT, words=("0", "1"), more=""):
    cells = [words[int(e)] for e in event]
    rows = [f"p{i},{x:.1f},{i},{t},{e}" for i, (x, t, e) in enumerate(zip(TIME * 2, time, cells, strict=True))]
    (folder / "t.csv").write_text("\n".join([f"id,a,b,{','.join(names)}", *rows]) + more)
    return folder / "t.csv"


def load(path, **options):
    return ef.datasets.load(path, source={"modalities": {"a": "a", "b": "b"}, **options})


def assert_survival(dataset):
    assert dataset.task == "survival"
    found = {k: y for s in dataset.splits.values() for k, y in zip(s.ids.tolist(), s.target, strict=True)}
    np.testing.assert_allclose([found[f"p{i}"] for i in range(N)], np.stack([TIME, EVENT], 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "words", "options"),
    [
        (("OS_MONTHS", "OS_STATUS"), ("0:LIVING", "1:DECEASED"), {}),
        (("OS.time", "OS"), ("0", "1"), {}),
        (("time", "status"), ("LIVING", "DECEASED"), {"target": ["time", "status"]}),
        (("time", "status"), ("LIVING", "DECEASED"), {"target": ["status", "time"]}),
        (("days_to_death", "vital_status"), ("Alive", "Dead"), {}),
        (("days", "event"), ("0", "1"), {"target": ["event", "days"]}),
        (("x", "y"), ("0", "1"), {"target": ["y", "x"], "task": "survival"}),
        (("follow_up", "relapse"), ("no", "yes"), {"task": "survival"}),
        (("months", "dead"), ("false", "true"), {}),
    ],
)
def test_recognised(tmp_path, names, words, options):
    assert_survival(load(table(tmp_path, names, words=words), **options))


@pytest.mark.parametrize(
    ("names", "change", "options", "message"),
    [
        (
            ("t", "e"),
            {},
            {"target": ["t"], "task": "survival"},
            "needs two target columns, the time and the event, got t",
        ),
        (
            ("time", "event"),
            {"words": ("1", "2")},
            {"task": "survival"},
            "'event' is to say .* but has 1, 2; write 1",
        ),
        (
            ("time", "event"),
            {"words": ("left", "dead")},
            {"task": "survival"},
            "'event' is to say .* but has dead, left",
        ),
        (
            ("time", "event"),
            {"time": -TIME},
            {"task": "survival"},
            "'time' is to be the time, of at least 0, but has -",
        ),
        (("time", "event"), {"event": EVENT & False}, {}, "nobody in 'train' has the event"),
        (("when", "what"), {}, {}, "which column is the target"),
    ],
)
def test_refused_in_one_line(tmp_path, names, change, options, message):
    with pytest.raises(ef.EquifuseError, match=message) as raised:
        load(table(tmp_path, names, **change), **options)
    assert "np." not in str(raised.value)


def test_two_quantities_stay_quantities(tmp_path):
    path = table(tmp_path, ("height", "width"), event=np.zeros(N), words=("3.5", ""))
    assert load(path, target=["height", "width"]).task == "regression"


def test_nobody_in_validation_has_the_event(tmp_path):
    parts = np.array(["train", "val", "test"])[np.arange(N) % 3]
    lines = table(tmp_path, ("time", "event"), event=parts != "val").read_text().splitlines()
    lines = [f"{line},{part}" for line, part in zip(lines, ["split", *parts], strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(ef.DataError, match="nobody in 'val' has the event, so training could not tell when to stop"):
        load(tmp_path / "t.csv")
