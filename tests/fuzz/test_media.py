"""What fuzzing and attacks found in readers of questions, scenes and clips: one line each."""

import json

import numpy as np
import pytest

import equifuse as ef
from equifuse.data.formats.clip_tables import read_clip_table
from equifuse.detection.sunrgbd import read_prepared_boxes
from tests.fuzz.media import MEDIA, make_media


def _refused(make, folder, message):
    """Damage to an example of :mod:`tests.fuzz.media` is one line, which says what is meant."""
    with pytest.raises(ef.DataError, match=message) as refused:
        make(folder)
    assert "\n" not in str(refused.value)


@pytest.fixture
def media_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    make_media(tmp_path)
    return tmp_path


def test_questions_of_one_image_cannot_be_split(media_folder):
    whole = {"questions": [{"image_id": 0, "question": "is it red?", "question_id": 0}]}
    (media_folder / "vqa/train_questions.json").write_text(json.dumps(whole))
    _refused(MEDIA["questions"][1], media_folder, "1 images of train are too few")


@pytest.mark.parametrize("count", [b"-1", b"99999999999999999999", b"2.5", b""])
def test_features_of_impossibly_many_regions(media_folder, count):
    path = media_folder / "features/one.tsv"
    lines = path.read_bytes().splitlines()
    lines[-1] = b"\t".join([count if i == 3 else cell for i, cell in enumerate(lines[-1].split(b"\t"))])
    path.write_bytes(b"\n".join(lines))
    _refused(MEDIA["questions, tsv"][1], media_folder, "one.tsv")


def test_features_that_unpack_to_more_than_memory(media_folder, monkeypatch):
    np.savez_compressed(media_folder / "features/each/1.npz", x=np.zeros((3, 2**21), np.float32))
    monkeypatch.setattr("equifuse.files.memory", lambda: 2**24)
    _refused(MEDIA["questions, files"][1], media_folder, r"1.npz declares")


@pytest.mark.parametrize("content", [b"", b"PK", "zip", "nan"])
def test_prepared_boxes_that_are_none(tmp_path, content):
    path = tmp_path / "000001_bbox.npy"
    if content == "zip":
        np.savez(tmp_path / "x.npz", np.zeros((1, 8)))
        (tmp_path / "x.npz").rename(path)
    elif content == "nan":
        np.save(path, np.array([[np.inf, 0, 0, 1, 1, 1, 0, 0]]))
    else:
        path.write_bytes(content)
    _refused(read_prepared_boxes, path, "000001_bbox.npy")


@pytest.mark.parametrize("start", ["\u00b2", "9" * 5000, "\u0663"])
def test_a_second_that_is_no_number(tmp_path, start):
    (tmp_path / "vggsound.csv").write_text(f"abcdefghijk,{start},dog,train\n", encoding="utf-8")
    _refused(read_clip_table, tmp_path / "vggsound.csv", "expected a second")


def test_a_segment_beyond_all_numbers(tmp_path):
    segment = {"label": "a", "segment": [0, 10**400]}
    (tmp_path / "clips.json").write_text(json.dumps({"v": {"subset": "training", "annotations": [segment]}}))
    _refused(read_clip_table, tmp_path / "clips.json", "no segments")
