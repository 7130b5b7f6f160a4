"""Several targets of different kinds: each as its own task has it, over the rows that have its label."""

import numpy as np
import pytest
import torch
from pyarrow import csv

import equifuse as ef
from equifuse.cli import main
from equifuse.data.batch import Batch
from equifuse.runs import TrainConfig, load_run, measure_run, predict_run, train
from equifuse.tasks import Classification, Mixture, Regression, Several, Survival, make_task
from equifuse.tasks.several import parts_of

OUTPUTS = ("type=A", "type=B", "age", "risk(days,died)")
N = 40


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(N, 4, generator=generator)
    target = torch.rand(N, 4, generator=generator)
    target[:, 0], target[:, 3] = (target[:, 0] > 0.5).float(), (target[:, 3] > 0.3).float()
    target[:5, 0], target[3:9, 1], target[20:30, 2] = torch.nan, torch.nan, torch.nan
    return prediction, target


def singles(prediction, target):
    """Each target with its own task, over the rows that have it."""
    found = {}
    for name, task, outputs, places in (
        ("type", Classification(("A", "B")), slice(0, 2), [0]),
        ("age", Regression(("age",)), slice(2, 3), [1]),
        ("days", Survival(), slice(3, 4), [2, 3]),
    ):
        here = ~target[:, places].isnan().any(1)
        y = target[here][:, places]
        found[name] = task, prediction[here][:, outputs], y[:, 0].long() if name == "type" else y
    return found


def test_loss_and_metrics_are_those_of_the_single_tasks(rows):
    prediction, target = rows
    task = make_task("several", classes=OUTPUTS, spreads=[1.0, 1.0, 2.0, 1.0], target_weight={"days": 3.0})
    own = {name: (task, p, y) for name, (task, p, y) in singles(prediction, target).items()}
    losses = {name: each.loss(p, y) for name, (each, p, y) in own.items()}
    torch.testing.assert_close(
        task.loss(prediction, target), losses["type"] + losses["age"] / 2 / 4 + 3 * losses["days"]
    )
    found = task.assess(prediction, target).values
    expected = {f"{m} {name}": v for name, (each, p, y) in own.items() for m, v in each.metrics(p, y).items()}
    assert {name: value for name, value in found.items() if name != "loss"} == expected
    gone = target.clone()
    gone[:, 1] = torch.nan
    measured = task.assess(prediction, gone)
    assert measured.values["mae age"] is None
    assert "no row" in measured.undefined["mae age"]
    assert measured.values["accuracy type"] == expected["accuracy type"]


def test_learnt_weights_are_those_of_homoscedastic_noise(rows):
    target = rows[1]
    task = Several(OUTPUTS, target_weight="learnt")
    model = ef.build_model({"a": 3}, "several", 4, classes=OUTPUTS, fusion="mean").eval()
    batch = Batch({"a": torch.randn(N, 3)}, target=target)
    loss, output = task.forward_loss(model, batch)
    torch.testing.assert_close(loss, task.loss(output.prediction, target))  # all logarithms are 0
    loss.backward()
    losses = task.losses(output.prediction, target)
    for i, name in enumerate(losses):
        torch.testing.assert_close(task.learns[str(i)].grad, 0.5 - losses[name].detach())
        task.learns[str(i)].data = torch.log(2 * losses[name].detach())  # where it is least
    weighted, _ = task.forward_loss(model, batch)
    torch.testing.assert_close(weighted, sum(0.5 + 0.5 * torch.log(2 * each) for each in losses.values()))


def test_kinds_of_targets_and_their_names():
    values = np.array([["x", 1, 3.5, 0, 2], [None, 2, 4.5, 1, 1], ["y", None, 1.5, 1, 3]], dtype=object)
    target, outputs = Mixture().encode(values, ["s", "g:regression", "t,e", "k"], "several")
    assert outputs == ("s=x", "s=y", "g", "risk(t,e)", "k=1", "k=2", "k=3")
    np.testing.assert_array_equal(target, [[0, 1, 3.5, 0, 1], [np.nan, 2, 4.5, 1, 0], [1, np.nan, 1.5, 1, 2]])
    assert [part.asked for part in parts_of(outputs)] == [
        "s:classification",
        "g:regression",
        "t,e:survival",
        "k:classification",
    ]
    other, names = Mixture().encode(values[::-1, :1], ["s:classification"], "several")
    known = ("s=z", "s=y", "s=x")
    assert Mixture().recoded(other, names, known, "new.csv")[:, 0].tolist()[::2] == [1.0, 2.0]
    with pytest.raises(ef.DataError, match="classes that the model does not know, such as 'x'"):
        Mixture().recoded(other, names, known[:2], "new.csv")
    with pytest.raises(ef.DataError, match="'a=b' has a sign"):
        Mixture().encode(values[:, :2], ["a=b", "g"], "several")
    with pytest.raises(ef.DataError, match="'g' is named twice"):
        Mixture().encode(values[:, 1:3], ["g:regression", "g:regression"], "several")


def test_a_run_from_a_table_and_what_becomes_of_it(tmp_path, capsys):
    generator = np.random.default_rng(0)
    z = generator.normal(size=(90, 2))
    lines = []
    for i, (a, b) in enumerate(z):
        kind = "" if i % 7 == 0 else ("old" if a > 0 else "new")
        age = "" if i % 5 == 0 else f"{50 + 10 * b:.2f}"
        lines.append(f"p{i},{a:.3f},{b:.3f},{kind},{age},{np.exp(-a):.3f},{int(i % 3 > 0)}")
    (tmp_path / "t.csv").write_text("id,a:x,b:x,kind,age,days,died\n" + "\n".join(lines))
    source = {"target": ["kind", "age", "days,died"]}
    options = {"fusion": "concat", "hidden": (8,), "epochs": 12, "lr": 0.02, "target_weight": ["learnt"]}
    config = TrainConfig(str(tmp_path / "t.csv"), source=source, **options)
    run = train(config, tmp_path / "run", progress=False).path
    opened = load_run(run)
    data = ef.datasets.load(tmp_path / "t.csv", source=source)
    assert data.classes == ("kind=new", "kind=old", "age", "risk(days,died)")
    ages = data.splits["train"].target[:, 1]
    assert opened.model.spreads == pytest.approx([1.0, 1.0, np.nanstd(ages.astype(float)), 1.0])
    found = measure_run(run, str(tmp_path / "t.csv"), intervals=False)
    assert found.n == 90
    assert found.metrics["c_index days"] > 0.8
    assert found.metrics["accuracy kind"] > 0.8
    said = predict_run(run, tmp_path / "t.csv", tmp_path / "p.csv")
    assert list(said) == ["id", "prediction_kind", "prob_kind_new", "prob_kind_old", "prediction_age", "risk_days"]
    assert csv.read_csv(tmp_path / "p.csv").num_rows == 90
    # Another cohort without ages of many values, and in words of its own kinds.
    few = [",".join([*line.split(",")[:4], "50", *line.split(",")[5:]]) for line in lines[:20]]
    (tmp_path / "few.csv").write_text("id,a:x,b:x,kind,age,days,died\n" + "\n".join(few))
    assert measure_run(run, str(tmp_path / "few.csv"), intervals=False).undefined["r2 age"] == "the target is constant"
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", str(tmp_path / "t.csv"), "--target", "kind", "--target-weight", "age=2"])
    assert ended.value.code == 2
    assert "target_weight is for several targets of different kinds" in capsys.readouterr().err
