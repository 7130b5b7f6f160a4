"""Columns of paths of pictures, and of texts."""

import json

import numpy as np
import pytest

from equifuse.cli import main
from equifuse.datasets import load
from equifuse.errors import DataError

SOURCE = {"modalities": {"photo": "image:path", "notes": "text:said", "lab": "a,b"}, "target": "y"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Red and blue pictures with a remark each; one file is missing, one broken, one cell empty."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("raw")
    (folder / "pictures").mkdir()
    lines = ["path,said,a,b,y,split"]
    for i in range(60):
        colour = ((200, 0, 0), (0, 0, 200))[i % 2]
        image.new("RGB", (12, 9), colour).save(folder / "pictures" / f"{i}.png")
        part = "train" if i < 36 else "val" if i < 48 else "test"
        said = ["warm and red", "cold blue"][i % 2] + (" unseen" if i > 50 else "")
        lines.append(f"pictures/{i}.png,{said},{i},{i % 3},{['red', 'blue'][i % 2]},{part}")
    (folder / "pictures" / "3.png").unlink()
    whole = (folder / "pictures" / "4.png").read_bytes()
    (folder / "pictures" / "4.png").write_bytes(whole[: len(whole) // 2])
    lines[1 + 5] = lines[1 + 5].replace("pictures/5.png", "").replace("cold blue", "")
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


def test_pictures_and_texts_are_modalities(table):
    with pytest.warns(UserWarning, match=r"of 59 files of pictures 1 missing, such as .* and 1 broken"):
        dataset = load(table, source={**SOURCE, "format_options": {"image_size": 16}})
    assert dataset.shapes == {"photo": (3, 16, 16), "notes": (4, 1), "lab": (2,)}
    train = dataset.splits["train"]
    assert np.flatnonzero(~train.present["photo"]).tolist() == [3, 4, 5]
    assert np.flatnonzero(~train.present["notes"]).tolist() == [5]
    assert train.inputs["photo"][0, :, 0, 0].tolist() == [200, 0, 0]
    assert train.lengths["notes"][:2].tolist() == [3, 2]
    # A word that the training part does not have is unknown, whatever other rows say.
    assert "unseen" not in dataset.contents["notes"].vocabulary
    assert dataset.splits["test"].inputs["notes"][-1, :3, 0].tolist()[-1] == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("image:nothing", "no column 'nothing'"), ("image:said", "no picture can be read"), ("image:y", "no column .y.")],
)
def test_mistakes_are_told(table, pattern, message):
    with pytest.raises(DataError, match=message):
        load(table, source={"modalities": {"photo": pattern}, "target": "y"})


def test_paths_stay_in_the_folder(table, tmp_path):
    (tmp_path / "t.csv").write_text(f"path,y\n{table.parent / 'pictures' / '0.png'},1\n../x.png,0\n", encoding="utf-8")
    with pytest.raises(DataError, match="leaves the folder"):
        load(tmp_path / "t.csv", source={"modalities": {"photo": "image:path"}, "target": "y"})


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Bright films with a high tone and dark ones with a low tone; one is missing, one broken, one without sound."""
    pytest.importorskip("av", reason="needs equifuse[video]")
    from tests.data.test_clips import write_clip

    folder = tmp_path_factory.mktemp("films")
    lines = ["id,recording,a,y,split"]
    for i in range(30):
        kind = {"shade": 40 + 160 * (i % 2), "tone": 300 + 900 * (i % 2), "sound": i != 5}
        write_clip(folder / f"{i}.mp4", seconds=0.5, **kind)
        part = "train" if i < 18 else "val" if i < 24 else "test"
        lines.append(f"v{i},{i}.mp4,{i},{['dark', 'bright'][i % 2]},{part}")
    (folder / "3.mp4").unlink()
    (folder / "4.mp4").write_bytes(b"no film")
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


@pytest.mark.slow
def test_sounds_and_films_are_modalities(films, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    given = ["--modality", "sound=audio:recording", "--modality", "film=video:recording", "--target", "y"]
    given += ["--format-option", "frames=2", "--format-option", "image_size=16", "--format-option", "sound=mel"]
    source = {"modalities": {"sound": "audio:recording", "film": "video:recording"}, "target": "y"}
    options = {"frames": 2, "image_size": 16, "sound": "mel"}
    with pytest.warns(UserWarning, match=r"of 30 files of (sound|film)s 1 missing, such as 3.mp4 and"):
        dataset = load(films, source={**source, "format_options": options})
    assert dataset.shapes == {"sound": (128, 800), "film": (2, 3, 16, 16)}
    train = dataset.splits["train"]
    assert np.flatnonzero(~train.present["sound"]).tolist() == [3, 4, 5]
    assert np.flatnonzero(~train.present["film"]).tolist() == [3, 4]
    light = train.inputs["film"][np.arange(3)].mean((1, 2, 3, 4))
    assert light[1] > light[0] + 100
    assert light[1] > light[2] + 100
    for words in (
        [
            "train",
            "--data",
            films,
            *given,
            "--fusion",
            "concat",
            "--epochs",
            1,
            "--hidden",
            8,
            "--out",
            tmp_path / "run",
        ],
        ["predict", tmp_path / "run", "--input", films, "--out", tmp_path / "said.csv"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert not stop.value.code, capsys.readouterr().err
    assert len((tmp_path / "said.csv").read_text().splitlines()) == 31


def test_columns_that_begin_with_a_kind_stay_columns(tmp_path):
    rows = "\n".join(f"{i},{i % 5},{i % 2}" for i in range(40))
    (tmp_path / "t.csv").write_text("image:0,text:0,y\n" + rows + "\n", encoding="utf-8")
    assert load(tmp_path / "t.csv", source={"target": "y"}).shapes == {"image": (1,), "text": (1,)}


@pytest.mark.filterwarnings("ignore:of 59 files")
def test_train_predict_and_evaluate(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        found = capsys.readouterr()
        assert not stop.value.code, found.err
        return found.out

    named = [w for m, p in SOURCE["modalities"].items() for w in ("--modality", f"{m}={p}")]
    small = ["--format-option", "image_size=16", "--hidden", 16, "--dim", 16, "--epochs", 4, "--lr", 1e-2, "--quiet"]
    call("train", "--data", table, *named, "--target", "y", "--fusion", "deq", *small, "--out", "run")
    found = json.loads(call("evaluate", "run", "--data", table, "--json"))
    assert found["metrics"]["accuracy"] > 0.8
    call("predict", "run", "--input", table, "--out", "p.csv")
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 61
