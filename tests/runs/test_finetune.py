"""Fine-tuning on a new cohort: what is frozen stays, what is kept is best on validation, classes may be lacking."""

import json

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.runs import TrainConfig, finetune_run, load_run, measure_run, train

pytestmark = pytest.mark.slow


def table(path, y, seed, flip=False, columns=("a:x", "a:y", "b:z")):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(y), 3)) + 2 * np.array(y)[:, None] * (-1 if flip else 1)
    named = [("low", "mid", "high")[k] for k in y]
    lines = [f"r{i},{named[i]},p{i // 2},{','.join(map(str, row))}" for i, row in enumerate(x)]
    path.write_text("id,label,patient," + ",".join(columns) + "\n" + "\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    data = table(folder / "own.csv", np.arange(90) % 3, 0)
    source = {"modalities": {"a": "a:*", "b": "b:*"}}
    config = TrainConfig(data, source=source, fusion="concat", hidden=(8,), epochs=10, lr=0.02)
    train(config, folder / "run", progress=False)
    return folder / "run"


def test_a_cohort_that_is_otherwise_is_learned_and_the_run_is_one_like_others(run, tmp_path):
    # Other values, the columns in another order, and only two of the three classes.
    data = table(tmp_path / "new.csv", np.arange(80) // 2 % 2, 1, flip=True)
    before = measure_run(run, data, intervals=False).metrics["accuracy"]
    found = finetune_run(run, data, tmp_path / "tuned", source={"group": "patient"}, epochs=25, lr=0.03, progress=False)
    assert found.after["accuracy"] > before + 0.2
    assert found.after["loss"] < found.before["loss"]
    tuned = load_run(tmp_path / "tuned")
    assert tuned.model.classes == load_run(run).model.classes
    splits = tuned.dataset().splits
    patients = [set(splits[part].columns["patient"]) for part in ("train", "val", "test")]
    assert sum(map(len, patients)) == 40 == len(set.union(*patients))
    again = measure_run(tmp_path / "tuned", intervals=False)
    assert again.metrics["loss"] == pytest.approx(found.after["loss"], rel=1e-5)
    assert again.n == len(splits["test"])
    assert json.loads((tmp_path / "tuned/finetuned.json").read_text())["kept"] in ("frozen encoders", "all")


def test_frozen_encoders_and_preparation_stay_and_nothing_is_kept_that_does_not_help(run, tmp_path):
    data = table(tmp_path / "new.csv", np.arange(40) % 3, 2, flip=True)
    finetune_run(run, data, tmp_path / "tuned", epochs=5, lr=0.05, frozen_only=True, progress=False)
    old, new = (load_run(path).model.state_dict() for path in (run, tmp_path / "tuned"))
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("encoders."))
    assert any(not torch.equal(old[name], new[name]) for name in old if name.startswith("head."))
    spoiled = finetune_run(run, load_run(run).config.data, tmp_path / "spoiled", epochs=1, lr=50.0, progress=False)
    if spoiled.kept == "before":
        same = load_run(tmp_path / "spoiled").model.state_dict()
        assert all(torch.equal(old[name], same[name]) for name in old)
    assert spoiled.after["loss"] <= spoiled.before["loss"] + 1e-6 or spoiled.kept != "before"


def test_a_cohort_without_a_modality_can_be_trained_on(run, tmp_path):
    data = table(tmp_path / "new.csv", np.arange(40) % 3, 3, columns=("a:x", "a:y", "other"))
    found = finetune_run(run, data, tmp_path / "tuned", epochs=2, progress=False)
    assert found.after["accuracy"] is not None
    assert not load_run(tmp_path / "tuned").dataset().splits["test"].present["b"].any()


def test_mistakes(run, tmp_path):
    data = table(tmp_path / "new.csv", np.arange(40) % 3, 3)
    (tmp_path / "other.csv").write_text((tmp_path / "new.csv").read_text().replace("mid", "huge"))
    with pytest.raises(ef.DataError, match="the model does not know, such as 'huge'"):
        finetune_run(run, str(tmp_path / "other.csv"), tmp_path / "tuned")
    with pytest.raises(ef.InputError, match="epochs must be at least 1"):
        finetune_run(run, data, tmp_path / "tuned", epochs=0)
    with pytest.raises(ef.InputError, match="made by finetune_run"):
        train(TrainConfig(data, init=str(run)), tmp_path / "tuned")
    with pytest.raises(ef.OutputExistsError):
        finetune_run(run, data, run)
    assert not (tmp_path / "tuned").exists()
