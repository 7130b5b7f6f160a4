"""The steps of the tutorials' case studies, on real sets where they are at hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupKFold

import equifuse as ef
from equifuse.cli import main
from equifuse.runs import TrainConfig, train

pytestmark = [pytest.mark.slow, pytest.mark.data]


def arrays_of(root, name):
    path = root / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {root}")
    return np.load(path, allow_pickle=False)


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_omics_with_gaps_go_to_another_cohort(data_root, tmp_path, monkeypatch, capsys):
    data, rng = arrays_of(data_root, "rosmap"), np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        y = data[f"y_{part}"]
        ids = [f"ROS-{i:04d}" for i in range(len(y))]
        site = np.where(np.arange(len(y)) % 2, "north", "south")
        pd.DataFrame({"id": ids, "site": site, "y": data["class_names"][y]}).to_csv(f"{part}.csv", index=False)
        for m in ("mrna", "methylation"):
            frame = pd.DataFrame(data[f"{m}_{part}"]).add_prefix(f"{m}_").mask(rng.random((len(y), 200)) < 0.05)
            frame.insert(0, "sample", [f"{i}-01A" for i in ids])
            frame.sample(frac=0.8 if m == "methylation" else 1, random_state=0).to_csv(f"{part}_{m}.csv", index=False)
    files = {p: [f"--modality={m}={p}_{m}.csv" for m in ("mrna", "methylation")] for p in ("train", "test")}
    how = ["--id", "id", "--target", "y", "--id-pattern", r"^\w+-\d+", "--prepare", "mrna=impute:knn,kbest:100"]
    call(
        "train",
        "--data",
        "train.csv",
        *files["train"],
        *how,
        "--fusion",
        "gmf",
        "--epochs",
        10,
        "--out",
        "run",
        "--quiet",
    )
    assert "methylation: 200 features, missing in 49 of 245 rows" in capsys.readouterr().out
    call("compare", "run", "--data", "test.csv", *files["test"], "--by", "site")
    found = json.loads((tmp_path / "run/comparison/comparison.json").read_text())["external"]
    assert found["n"] == 106
    assert found["metrics"]["accuracy"] > found["baseline"]["accuracy"] + 0.05


def test_sentiment_of_speakers_not_met_and_without_their_video(data_root):
    data = arrays_of(data_root, "mosi_utterance")
    X = {m: data[m][:900] for m in ("text_cnn", "audio", "video")}
    y, video = data["y"][:900], data["video_id"][:900]
    learn, new = next(GroupKFold(4).split(y, y, video))
    model = ef.FusionClassifier("gmf", hidden=(32,), epochs=8, modality_dropout=0.3, random_state=0)
    model.fit({m: x[learn] for m, x in X.items()}, y[learn], groups=video[learn])
    there = {m: x[new] for m, x in X.items()}
    majority = max(np.mean(y[new]), 1 - np.mean(y[new]))
    assert model.score(there, y[new]) > majority + 0.05
    assert model.score({**there, "video": None}, y[new]) > majority + 0.05


def test_a_dead_sensor_is_worse_than_an_absent_one(data_root, tmp_path):
    data = arrays_of(data_root, "uci_har_subset")
    names = [str(m) for m in data["modalities"]]
    rows = {"train": slice(None, None, 3), "test": slice(None, None, 3)}
    part = {p: {m: data[f"{m}_{p}"][r, :, ::4].transpose(0, 2, 1).astype("f4") for m in names} for p, r in rows.items()}
    y = {p: data[f"y_{p}"][r] for p, r in rows.items()}
    n = {p: len(y[p]) for p in y}
    order = np.random.default_rng(0).permutation(n["train"])
    np.savez(
        tmp_path / "har.npz",
        modalities=names,
        task="classification",
        y=np.concatenate([y["train"], y["test"]]),
        train_idx=order[150:],
        val_idx=order[:150],
        test_idx=n["train"] + np.arange(n["test"]),
        **{m: np.concatenate([part["train"][m], part["test"][m]]) for m in names},
    )
    options = {"fusion": "gmf", "encoder": "attention", "hidden": [32], "epochs": 15, "lr": 0.005}
    options |= {"data": str(tmp_path / "har.npz"), "modality_dropout": 0.3}
    train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    model = ef.load(tmp_path / "run/model")
    inputs = {m: torch.from_numpy(x) for m, x in part["test"].items()}
    dead = {**inputs, "total_acc": torch.zeros_like(inputs["total_acc"])}

    def accuracy(x, present=None):
        with torch.no_grad():
            return (model(x, present=present).prediction.argmax(1).numpy() == y["test"]).mean()

    absent = {"total_acc": torch.zeros(n["test"], dtype=torch.bool)}
    assert accuracy(inputs) > 0.7
    assert accuracy(dead, absent) > accuracy(dead)
