"""Each recipe trains on files that are made in the exact layout of its public set."""

import json
import pickle

import h5py
import numpy as np
import pytest

from equifuse.cli import main
from equifuse.data.conversion import convert
from equifuse.registry import PUBLIC_SETS
from tests.data.test_clips import write_clip
from tests.data.test_formats import mmsa, mogonet
from tests.data.test_public import RECIPES
from tests.detection.rooms import write_rooms


def brca(folder):
    mogonet(folder)


def mmimdb(folder, rows=12):
    folder.mkdir()
    generator = np.random.default_rng(0)
    with h5py.File(folder / "multimodal_imdb.hdf5", "w") as file:
        file["features"] = generator.normal(size=(rows, 300)).astype(np.float32)
        file["vgg_features"] = generator.normal(size=(rows, 4096)).astype(np.float32)
        file["genres"] = (np.arange(rows)[:, None] % 3 == np.arange(23) % 3).astype(np.int64)
        kinds = [("split", "S5"), ("source", "S12"), ("start", int), ("stop", int)]
        parts = [(b"train", b"features", 0, 6), (b"dev", b"features", 6, 9), (b"test", b"features", 9, rows)]
        file.attrs["split"] = np.array(parts, dtype=kinds)


def mmsa_file(folder):
    folder.mkdir()
    (folder / "aligned_50.pkl").write_bytes(pickle.dumps(mmsa(rows=8), protocol=4))
    convert(folder / "aligned_50.pkl", folder / f"{folder.name.removeprefix('cmu-')}.hdf5")


def vqa(folder):
    folder.mkdir()
    kinds = (("What color is it?", "red", "other"), ("Is it red?", "yes", "yes/no"))
    for part, images in (("train2014", range(1, 13)), ("val2014", range(13, 16))):
        asked, annotated = [], []
        for image in images:
            for k, (text, answer, kind) in enumerate(kinds):
                key = {"image_id": image, "question_id": 1000 * image + k}
                asked.append({**key, "question": text})
                said = {"answer_confidence": "yes", "answer": answer}
                answers = [{**said, "answer_id": i} for i in range(1, 11)]
                facts = {"question_type": text.lower()[:7], "answer_type": kind, "multiple_choice_answer": answer}
                annotated.append({**key, **facts, "answers": answers})
        subset = {"info": {}, "data_type": "mscoco", "data_subtype": part, "license": {}}
        questions = {**subset, "task_type": "Open-Ended", "questions": asked}
        (folder / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps(questions))
        (folder / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({**subset, "annotations": annotated}))
        with h5py.File(folder / f"{part}.hdf5", "w") as file:
            file["image_features"] = np.random.default_rng(0).random((len(images), 36, 2048), dtype=np.float32)
        (folder / f"{part}.json").write_text(json.dumps({str(image): row for row, image in enumerate(images)}))


def scenes(folder):
    write_rooms(folder, 4)


def vggsound(folder):
    (folder / "deep").mkdir(parents=True)
    rows = []
    for i in range(8):
        write_clip(folder / f"deep/v{i}_000003.mkv", 0.3)
        rows.append(f'v{i},3,"{("dog barking", "rain")[i % 2]}",{"test" if i > 5 else "train"}')
    (folder / "vggsound.csv").write_text("\n".join(rows) + "\n")


def activitynet(folder):
    folder.mkdir()
    database = {}
    for i in range(8):
        write_clip(folder / f"v_id{i}.mkv", 0.4)
        said = [{"segment": [0.0, 0.3], "label": ("Surfing", "Archery")[i % 2]}]
        subset = "validation" if i > 5 else "training"
        database[f"id{i}"] = {"duration": 0.4, "subset": subset, "resolution": "64x32", "url": "", "annotations": said}
    described = {"version": "VERSION 1.3", "taxonomy": [], "database": database}
    (folder / "activity_net.v1-3.min.json").write_text(json.dumps(described))


def fakeavceleb(folder):
    kinds = ("RealVideo-RealAudio", "FakeVideo-FakeAudio")
    lines = ["source,target1,target2,method,category,type,race,gender,path,"]
    for i in range(10):
        kind = kinds[i % 2]
        place = folder / kind / "African/men" / f"id{i:05d}"
        place.mkdir(parents=True)
        write_clip(place / "00109.mkv", 0.3)
        where = f"FakeAVCeleb/{kind}/African/men/{place.name}"
        lines.append(f"{place.name},-,-,real,A,{kind},African,men,00109.mkv,{where}")
    (folder / "meta_data.csv").write_text("\n".join(lines) + "\n")


MADE = {
    "brca": brca,
    "mmimdb": mmimdb,
    "cmu-mosi": mmsa_file,
    "cmu-mosei": mmsa_file,
    "vqa-v2": vqa,
    "sun-rgbd": scenes,
    "vggsound": vggsound,
    "activitynet": activitynet,
    "fakeavceleb": fakeavceleb,
}

# Widths and sizes that only cost time here.
SMALLER = {
    "brca": ["--dim", "32", "--hidden", "32"],
    "sun-rgbd": ["--format-option", "points=1024", "--dim", "32", "--hidden", "32"],
    "vqa-v2": ["--dim", "64", "--hidden", "64", "--warmup", "0"],
    **{key: ["--format-option", "size=32", "--hidden", "32"] for key in ("vggsound", "activitynet", "fakeavceleb")},
}


def test_files_are_made_for_every_public_set():
    assert set(MADE) == set(PUBLIC_SETS.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_recipe_trains_on_the_files_of_its_set(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    MADE[name](tmp_path / name)
    words = ["train", "--config", str(RECIPES / f"{name}.yaml"), "--epochs", "1", "--quiet", "--out", "run"]
    words += SMALLER.get(name, [])
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "run/metrics.json").is_file()
