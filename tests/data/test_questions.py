"""Questions about images: the official accuracy, and readers of every layout of files."""

import base64
import json
import shutil

import h5py
import numpy as np
import pytest

from equifuse.cli import main
from equifuse.data.answers import (
    Question,
    answer_accuracy,
    answer_vocabulary,
    normalised,
    packed,
    unpacked,
    vocabulary_form,
    without_punctuation,
)
from equifuse.data.questions import read_annotations, read_questions, score
from equifuse.data.vision import open_images
from equifuse.datasets import load
from equifuse.errors import DataError, InputError
from equifuse.tasks import make_task

torch = pytest.importorskip("torch")

NET = ("net",) * 6 + ("netting", "mesh", "pitcher", "orange")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("red, white", "red white"),
        ("$3.50", "$3.50"),
        ("3.", "3"),
        ("u.s.a.", "usa"),
        (".5", ".5"),
        ("10.5 m.", "10.5 m"),
        ("yes/no", "yes no"),
        ("a,b", "a b"),
    ],
)
def test_punctuation_is_that_of_the_official_evaluation(text, expected):
    assert without_punctuation(text) == expected


def test_words_are_normalised():
    assert normalised("The Two dogs") == "2 dogs"
    assert normalised("dont") == "don't"
    assert normalised("shouldntve youd've somebody'd") == "shouldntve you'd've somebodyd"
    assert vocabulary_form("3, 4") == "3 4"


@pytest.mark.parametrize(
    ("answer", "people", "expected"),
    [
        ("net", NET, 1.0),
        ("the net", NET, 1.0),
        ("mesh", NET, 0.3),
        ("window", NET, 0.0),
        ("catcher", ("pitcher",) * 9 + ("catcher",), 0.3),
        ("orange", ("orange",) * 10, 1.0),
        ("Orange", ("orange",) * 10, 0.0),  # all agree: nothing is normalised
        ("Orange", ("orange",) * 9 + ("red",), 1.0),
        ("no", ("no",), 1.0),  # sets with one person
    ],
)
def test_the_official_accuracy(answer, people, expected):
    assert answer_accuracy(answer, people) == pytest.approx(expected)


@pytest.mark.parametrize("count", range(11))
def test_the_accuracy_of_so_many_matches_is_the_soft_score(count):
    people = ("cat",) * count + tuple(f"other {i}" for i in range(10 - count))
    expected = min(1.0, 0.3 * count) if count < 4 else 1.0
    assert answer_accuracy("cat", people) == pytest.approx(expected)
    if count < 10:
        soft, official, _ = unpacked(packed([Question(people)], ["cat", "dog"]), 2)
        assert soft[0].tolist() == pytest.approx([expected, 0])
        assert official[0].tolist() == pytest.approx([expected, 0])


def test_a_vocabulary_has_what_enough_questions_have_and_the_empty_answer():
    common = ["The Cat"] * 5 + ["cat"] * 4 + ["dog"] * 8 + ["a"] * 9
    assert answer_vocabulary(common) == ("", "cat")


def test_the_metric_is_the_score_of_the_submission():
    words = ("2", "cat", "no", "orange", "yes")
    questions = [
        Question(("yes",) * 10, "yes/no"),
        Question(("Orange",) * 10, "other"),  # nobody can say it as they do
        Question(("two",) * 5 + ("2",) * 2 + ("3",) * 3, "number"),
        Question(("zebra",) * 10, "other"),  # not in the vocabulary
        Question(("cat",) * 2 + ("a cat",) + ("dog",) * 7, "other"),
    ]
    logits = torch.eye(5)[[4, 3, 0, 1, 1]]
    task = make_task("vqa", classes=words)
    target = torch.from_numpy(packed(questions, words))
    found = task.metrics(logits, target)
    said = task.predict(logits)["prediction"]
    annotated = {str(i): _annotated(q) for i, q in enumerate(questions)}
    official = score({str(i): str(answer) for i, answer in enumerate(said)}, annotated)
    assert found["vqa_accuracy"] == pytest.approx(official.overall / 100, abs=1e-4)
    assert [found["vqa_yes_no"], found["vqa_number"], found["vqa_other"]] == pytest.approx([1.0, 1.0, 0.3])
    records = task.records({"id": np.array(["7", "8"]), "prediction": np.array(["cat", "no"])})
    assert records == [{"question_id": 7, "answer": "cat"}, {"question_id": 8, "answer": "no"}]
    # The loss is summed over the answers, mean over the questions; a question without a known answer counts too.
    soft, _, _ = unpacked(target.numpy(), 5)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(soft), reduction="none")
    assert task.loss(logits, target).item() == pytest.approx(each.sum(1).mean().item(), rel=1e-6)
    assert soft[3].sum() == 0


def _annotated(question):
    from equifuse.data.questions import Annotated

    return Annotated(question, question.answers[0], "what")


def test_the_real_triple(data_root):
    folder = data_root / "vqa_v2_samples" / "vqav2"
    if not folder.is_dir():
        pytest.skip("needs vqa_v2_samples")
    asked, annotated = read_questions(folder / "questions.json"), read_annotations(folder / "annotations.json")
    assert asked[0].text == "What is this photo taken looking through?"
    given = {"458752000": "the net", "458752001": "catcher", "458752002": "Orange"}
    known = {key: annotated[key] for key in given}
    assert score(given, known).overall == pytest.approx(round(100 * (1 + 0.3 + 0) / 3, 2))
    table = open_images(data_root / "vqa_v2_samples" / "images" / "vqav2", 32)
    assert (table.find([each.image for each in asked]) >= 0).any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Questions about coloured squares, in the layout of VQA v2."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("vqa")
    colours = {"red": (200, 0, 0), "blue": (0, 0, 200)}
    (path / "images").mkdir()
    number = 0
    for part, count in (("train2014", 30), ("val2014", 10)):
        questions, annotations = [], []
        for i in range(count):
            number += 1
            colour = ("red", "blue")[i % 2]
            name = f"COCO_{part}_{number:012d}.png"
            image.new("RGB", (20, 10), colours[colour]).save(path / "images" / name)
            for k, (text, answer) in enumerate(
                (("What color is it?", colour), ("Is it red?", ["no", "yes"][i % 2 == 0]))
            ):
                questions.append({"image_id": number, "question": text, "question_id": number * 1000 + k})
                answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": j + 1} for j in range(10)]
                annotations.append(
                    {
                        "question_id": number * 1000 + k,
                        "image_id": number,
                        "question_type": text[:7].lower(),
                        "answer_type": "yes/no" if k else "other",
                        "multiple_choice_answer": answer,
                        "answers": answers,
                    }
                )
        _write(path / f"v2_OpenEnded_mscoco_{part}_questions.json", {"data_subtype": part, "questions": questions})
        _write(path / f"v2_mscoco_{part}_annotations.json", {"annotations": annotations})
    questions = [{"image_id": 1, "question": "what is red?", "question_id": 5}]
    _write(path / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": questions})
    return path


def _write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def test_val_is_the_test_part_and_validation_is_held_out_by_image(folder):
    dataset = load(folder, source={"format": "vqa", "format_options": {"image_size": 16}})
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 48, "val": 12, "test": 20}
    assert dataset.classes == ("blue", "no", "red", "yes")
    images = {part: set(split.columns["image"]) for part, split in dataset.splits.items()}
    assert not images["train"] & images["val"]
    assert dataset.shapes == {"image": (3, 16, 16), "question": (14, 1)}
    pixels = dataset.splits["test"].inputs["image"][np.array([0, 1, 2])]
    assert pixels[0, :, 0, 0].tolist() == [200, 0, 0] == pixels[1, :, 0, 0].tolist()
    assert pixels[2, :, 0, 0].tolist() == [0, 0, 200]
    assert dataset.splits["train"].lengths["question"][:2].tolist() == [4, 3]
    assert (
        load(folder, source={"format": "vqa", "format_options": {"image_size": 16}}).fingerprint()
        == dataset.fingerprint()
    )


def regions(count, width=6):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(n, width)).astype(np.float32) for n in (3, 5, 2, 4)[:count]]


def as_tsv(path, features, lxmert=False):
    lines = []
    for i, x in enumerate(features):
        boxes = base64.b64encode(np.zeros((len(x), 4), np.float32).tobytes()).decode()
        data = base64.b64encode(x.tobytes()).decode()
        front = [f"COCO_val2014_{i:012d}", "480", "640", "", "", "", "", str(len(x)), boxes, data]
        plain = [str(i), "640", "480", str(len(x)), boxes, data]
        lines.append("\t".join(front if lxmert else plain))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_hdf5(path, features, adaptive=False):
    with h5py.File(path, "w") as file:
        if adaptive:
            ends = np.cumsum([len(x) for x in features])
            file["image_features"] = np.concatenate(features)
            file["pos_boxes"] = np.stack([ends - [len(x) for x in features], ends], axis=1)
        else:
            file["image_features"] = np.stack([x[:2] for x in features])
    _write(path.with_name("val36_imgid2idx.json"), {str(i): i for i in range(len(features))})


def as_files(path, features, grid=False):
    path.mkdir()
    for i, x in enumerate(features):
        name = f"COCO_val2014_{i:012d}.jpg"
        if grid:
            np.save(path / f"{name}.npy", x[:2].T.reshape(1, x.shape[1], 2, 1))
        else:
            np.savez(path / f"{name}.npz", x=x.T, bbox=np.zeros((len(x), 4)), image_w=640, image_h=480)


@pytest.mark.parametrize(
    ("name", "write", "whole"),
    [
        ("a.tsv", as_tsv, True),
        ("b.tsv", lambda path, x: as_tsv(path, x, lxmert=True), True),
        ("c.hdf5", lambda path, x: as_hdf5(path, x, adaptive=True), True),
        ("d.h5", as_hdf5, False),
        ("e", as_files, True),
        ("f", lambda path, x: as_files(path, x, grid=True), False),
    ],
)
def test_every_layout_of_features_comes_back(tmp_path, name, write, whole):
    features = regions(4)
    write(tmp_path / name, features)
    for _ in range(2):  # the second time an index that is stored may be used
        table = open_images(tmp_path / name, 64)
        index = table.find([2, "0", 2, 99])
        assert index[-1] == -1
        rows = table.rows(index)
        expected = features if whole else [x[:2] for x in features]
        assert table.lengths[index[:3]].tolist() == [len(expected[i]) for i in (2, 0, 2)]
        for got, i in zip(rows[np.array([0, 1, 2])], (2, 0, 2), strict=True):
            np.testing.assert_array_equal(got[: len(expected[i])], expected[i])
            assert not got[len(expected[i]) :].any()
        assert np.isnan(rows[np.array([3])]).all()


def test_a_question_without_an_image_lacks_the_modality(folder, tmp_path):
    as_files(tmp_path / "some", regions(3))
    for n, name in enumerate((2, 3, 31)):
        (tmp_path / "some" / f"COCO_val2014_{n:012d}.jpg.npz").rename(tmp_path / "some" / f"{name:012d}.npz")
    with pytest.warns(UserWarning, match="74 of 80 questions are about an image that is not there"):
        dataset = load(folder, source={"format": "vqa", "modalities": {"image": str(tmp_path / "some")}})
    counts = [int(split.present["image"].sum()) for split in dataset.splits.values()]
    assert sum(counts) == 6
    assert dataset.contents["image"].kind == "regions"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f / "images"), "no images and no features"),
        (lambda f: _write(f / "answers.json", ["a", "a"]), "each once"),
        (lambda f: (f / "v2_mscoco_train2014_annotations.json").write_text("{", encoding="utf-8"), "JSON"),
        (lambda f: (f / "v2_OpenEnded_mscoco_train2014_questions.json").unlink(), "no annotated questions of train"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, tmp_path, change, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    with pytest.raises((DataError, InputError), match=message):
        load(copy, source={"format": "vqa", "format_options": {"image_size": 16}})


def test_pickles_of_features_are_refused(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.pth").write_bytes(b"")
    with pytest.raises(DataError, match="pickles"):
        open_images(tmp_path / "x", 64)


def test_train_evaluate_and_submit(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        found = capsys.readouterr()
        assert not stop.value.code, found.err
        return found.out

    small = [
        "--format-option",
        "image_size=16",
        "--hidden",
        16,
        "--dim",
        16,
        "--epochs",
        6,
        "--batch-size",
        8,
        "--lr",
        5e-3,
        "--quiet",
    ]
    plain = ["--modality-dropout", 0, "--dropout", 0, "--encoder", "image=guided", "--out", "run"]
    call("train", "--data", folder, "--format", "vqa", "--fusion", "deq", *small, *plain)
    told = json.loads(call("evaluate", "run", "--data", folder, "--split", "val", "--json"))
    call("predict", "run", "--input", folder / "v2_OpenEnded_mscoco_val2014_questions.json", "--out", "results.json")
    out = call("score-answers", "results.json", folder / "v2_mscoco_val2014_annotations.json", "--json")
    official = json.loads(out)
    assert set(official["perQuestionType"]) == {"what co", "is it r"}
    assert official["overall"] > 50
    assert 100 * told["metrics"]["vqa_accuracy"] == pytest.approx(official["overall"], abs=0.01)
    call("predict", "run", "--input", folder / "v2_OpenEnded_mscoco_test2015_questions.json", "--out", "test.json")
    assert [entry["question_id"] for entry in json.loads((tmp_path / "test.json").read_text())] == [5]
