"""Scenes from folders, and models that find what is in them."""

import json
import shutil

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.cli import main
from equifuse.data.batch import Batch, as_batch
from equifuse.detection import Calibration, farthest_points, image_votes, inside_boxes
from equifuse.detection.network import SeedEncoder, neighbours, spread
from equifuse.detection.scenes import seeds_of
from equifuse.detection.sunrgbd import CLASSES, read_labels
from equifuse.tasks import make_task
from equifuse.tasks.detection import HEADINGS, Proposals, of_proposal
from tests.detection.rooms import room, write_rooms

POINTS = 512
SOURCE = {"format_options": {"points": POINTS}}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIFUSE_CACHE", str(folder / "cache"))
        yield write_rooms(folder / "made", 10)


@pytest.fixture(scope="module")
def data(rooms):
    return ef.datasets.load(rooms, source=SOURCE)


def exact(boxes, seeds):
    """Raw outputs that say exactly these boxes (M, 8), one each for the first proposals."""
    count = len(seeds) // 4
    raw = torch.zeros(count, of_proposal(10))
    raw[:, 3] = 9.0  # no object
    for row, box in zip(raw, boxes, strict=False):
        turn = int(((box[6] + np.pi / HEADINGS) % (2 * np.pi)) / (2 * np.pi / HEADINGS))
        rest = (box[6] - turn * 2 * np.pi / HEADINGS + np.pi) % (2 * np.pi) - np.pi
        kind = int(box[7])
        mean = make_task("detection3d") and np.array(list(ef.detection.sunrgbd.MEAN_SIZES.values())[kind])
        row[:3], row[5:8] = (torch.tensor(box[:3]) for _ in range(2))
        row[3], row[4] = -9.0, 9.0
        heading, size = row[8 : 8 + 2 * HEADINGS].view(HEADINGS, 2), row[8 + 2 * HEADINGS :][:40].view(10, 4)
        heading[turn, 0], heading[turn, 1] = 30.0, rest / (np.pi / HEADINGS)
        size[kind, 0], size[kind, 1:] = 30.0, torch.tensor(box[3:6] / mean - 1)
        row[8 + 2 * HEADINGS + 40 + kind] = 30.0
        row[-1] = 100
    votes = np.concatenate([seeds, seeds], 1)
    for box in boxes:
        votes[inside_boxes(seeds, box[None])[:, 0], 3:] = box[:3]
    return torch.cat([torch.tensor(votes, dtype=torch.float32).flatten(), raw.flatten()])


def test_a_folder_of_scenes_is_read(rooms, data):
    assert data.task == "detection3d"
    assert data.classes == CLASSES
    assert data.shapes == {"points": (POINTS, 4), "image": (seeds_of(POINTS), 21)}
    assert [len(split) for split in data.splits.values()] == [6, 2, 2]
    test = data.splits["test"]
    for row, number in enumerate(test.ids):
        boxes, flat = read_labels(rooms / f"label_v1/{number}.txt")
        np.testing.assert_allclose(test.target[row][: len(boxes)], boxes, rtol=1e-5)
        assert (test.target[row][len(boxes) :, 7] == -1).all()
        points, image = test.inputs["points"][row], test.inputs["image"][row]
        np.testing.assert_array_equal(points[: len(image), :3], image[:, :3])
        cloud = np.load(rooms / f"lidar/{number}.npz")["pc"]
        place = {tuple(p[:3]): p[3:] for p in cloud}  # each point is one of the cloud, with its colour
        colours = np.array([place[tuple(p)] for p in image[:, :3]])
        camera = Calibration.read(rooms / f"calib/{number}.txt")
        np.testing.assert_allclose(image[:, 3:], image_votes(image, colours, camera, flat, 10), atol=1e-6)
        assert points[:, 3].min() > -0.05  # heights above the floor


def test_scenes_are_made_once_and_the_same_in_every_process(rooms, data, capsys):
    again = ef.datasets.load(rooms, source=SOURCE)
    assert again.fingerprint() == data.fingerprint()
    assert "scenes" not in capsys.readouterr().err
    other = ef.datasets.load(rooms, source={"format_options": {"points": POINTS + 1}})
    assert other.fingerprint() != data.fingerprint()
    assert "10 of 10 read" in capsys.readouterr().err


def test_prepared_folders_are_read_with_and_without_images(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for part, numbers in (("train", (1, 2, 3, 4)), ("val", (5,))):
        folder = tmp_path / f"set/sunrgbd_pc_bbox_votes_50k_v1_{part}"
        folder.mkdir(parents=True)
        for number in numbers:
            cloud, boxes = room(generator, 1000)
            np.savez(folder / f"{number:06d}_pc.npz", pc=cloud)
            np.save(folder / f"{number:06d}_bbox.npy", boxes)
    alone = ef.datasets.load(tmp_path / "set", source=SOURCE)
    assert alone.modalities == ("points",)
    np.testing.assert_allclose(
        alone.splits["test"].target[0][: len(boxes)], boxes * [1, 1, 1, 2, 2, 2, 1, 1], rtol=1e-5
    )
    write_rooms(tmp_path / "set/sunrgbd_trainval", 3)
    both = ef.datasets.load(tmp_path / "set", source=SOURCE)
    assert both.modalities == ("points", "image")
    assert sum(int(split.present["image"].sum()) for split in both.splits.values()) == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "calib/000003.txt").write_text("1 2"), r"000003.txt is no calibration"),
        (lambda p: (p / "lidar/000003.npz").write_bytes(b"PK"), r"000003.npz"),
        (lambda p: (p / "label_v1/000003.txt").write_text("bed 1 2 3"), r"line 1 has 4 fields, expected 13"),
        (lambda p: (p / "label_v1/000003.txt").write_text("bed" + " x" * 12), r"line 1 has fields that are no numbers"),
        (lambda p: (p / "label_v1/000003.txt").unlink(), r"000003.txt cannot be read"),
        (lambda p: (p / "val_data_idx.txt").write_text("one"), r"holds 'one', expected numbers"),
        (lambda p: shutil.rmtree(p / "lidar"), r"has no points: expected depth"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, monkeypatch, damage, said):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    folder = write_rooms(tmp_path / "made", 5, points=600)
    damage(folder)
    with pytest.raises(ef.DataError, match=said):
        ef.datasets.load(folder, source=SOURCE)


def test_options_of_the_format_are_checked(rooms):
    with pytest.raises(ef.InputError, match="points must be a whole number of at least 512, got 3"):
        ef.datasets.load(rooms, source={"format_options": {"points": 3}})
    with pytest.raises(ef.InputError, match="takes no option 'target'"):
        ef.datasets.load(rooms, source={"target": "y"})


def test_neighbours_are_the_nearest_within_the_radius():
    points = torch.rand(2, 60, 3)
    index = neighbours(points[:, :9], points, 0.4, 8)
    away = torch.cdist(points[:, :9], points)
    for b in range(2):
        for s in range(9):
            near = away[b, s].argsort()[:8]
            near = near[away[b, s, near] <= 0.4]
            assert set(index[b, s].tolist()) == set(near.tolist())


def test_points_are_spread_as_they_are_in_numpy():
    points = torch.rand(3, 80, 3)
    expected = np.stack([farthest_points(cloud, 20) for cloud in points.numpy()])
    np.testing.assert_array_equal(spread(points, 20).numpy(), expected)


def test_features_of_seeds_do_not_depend_on_where_the_scene_is_or_on_other_scenes():
    encoder, points = SeedEncoder(POINTS, 16).eval(), torch.rand(3, POINTS, 4)
    with torch.no_grad():
        whole = encoder(points)
        moved = encoder(points + torch.tensor([5.0, -2, 1, 0]))
    assert whole.shape == (3, seeds_of(POINTS), 16)
    assert torch.allclose(moved, whole, atol=1e-3, rtol=1e-3)
    assert torch.allclose(encoder(points[:1])[0], whole[0], atol=1e-5, rtol=1e-5)


def test_outputs_that_say_what_is_there_have_the_least_loss_and_the_best_precision(data):
    task, split = make_task("detection3d"), data.splits["train"]
    said = torch.stack(
        [
            exact(boxes[boxes[:, 7] >= 0].astype(np.float64), image[:, :3].astype(np.float64))
            for boxes, image in zip(split.target, split.inputs["image"], strict=True)
        ]
    )
    target = torch.from_numpy(split.target)
    losses = {name: value.item() for name, value in task.losses(said, target).items()}
    assert max(losses.values()) < 1e-3, losses
    found = task.metrics(said, target)
    assert found["map_25"] == found["map_50"] == 1
    assert {name for name in found if name.startswith("map_25 ")} <= {"map_25 bed", "map_25 chair", "map_25 desk"}
    boxes = Proposals.of(said, 10).boxes(torch.tensor(list(ef.detection.sunrgbd.MEAN_SIZES.values())))
    first = split.target[0][split.target[0][:, 7] >= 0]
    turn = np.remainder(boxes[0, : len(first), 6].numpy() - first[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turn, 0, atol=1e-5)
    np.testing.assert_allclose(boxes[0, : len(first), :6], first[:, :6], atol=1e-5)
    assert json.loads(task.predict(said)["detections"][0])[0]["class"] in ("bed", "chair", "desk")


def test_the_loss_of_votes_is_that_of_the_nearest_centre_and_its_gradient_is_right():
    task = make_task("detection3d")
    target = torch.tensor([[[0, 0, 0, 2, 2, 2, 0.0, 0], [0.5, 0, 0, 2, 2, 2, 0, 3], [0, 0, 0, 0, 0, 0, 0, -1]]])
    torch.manual_seed(3)
    raw = torch.randn(1, 2 * (24 + of_proposal(10)), dtype=torch.float64)
    raw[0, 0:3], raw[0, 3:6] = torch.zeros(3), torch.tensor([0.4, 0, 0])  # in both boxes: the second is nearer
    raw[0, 6:48:6] = 50  # other seeds are in none
    assert task.losses(raw, target)["vote"].item() == pytest.approx(10 * 0.1, rel=1e-5)
    raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: task.loss(x, target), raw, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_an_empty_prediction_and_a_scene_without_boxes_do_not_fail():
    task = make_task("detection3d")
    raw = torch.zeros(2, 32 * (24 + of_proposal(10)))
    assert [len(scene) for scene in task.detections(raw)] == [0, 0]  # no box has points in it
    nothing = torch.full((2, 1, 8), -1.0)
    assert torch.isfinite(task.loss(raw, nothing))
    found = task.measure(raw, nothing)
    assert found.undefined["map_25"] == "there is no box"


@pytest.mark.parametrize("fusion", ["concat", "gmf", "deq"])
def test_seeds_are_fused_one_by_one_and_may_lack_the_image(data, fusion):
    options = {"dim": 16} if fusion == "deq" else {}
    model = ef.build_model(
        data.shapes, "detection3d", 10, fusion=fusion, fusion_options=options, encoder_options={"hidden": 16},
        classes=CLASSES,
    ).eval()  # fmt: skip
    task, batch = make_task("detection3d"), as_batch(data.splits["test"])
    with torch.no_grad():
        output = task.forward(model, batch)
        mask = output.present["image"]
        assert mask.shape == (2, seeds_of(POINTS))
        assert 0 < mask.float().mean() < 1
        changed = batch.inputs["image"].clone()
        changed[..., 3:][~mask] = 0
        same = task.forward(model, Batch({**batch.inputs, "image": changed}, {}, batch.target))
        assert torch.allclose(same.prediction, output.prediction, atol=1e-5)
        for m in ("points", "image"):
            alone = task.forward(model, Batch({m: batch.inputs[m]}, {}, batch.target))
            hidden = task.forward(
                model,
                Batch(
                    {**batch.inputs, **{o: x * torch.nan for o, x in batch.inputs.items() if o != m}},
                    {o: torch.zeros(2, dtype=torch.bool) for o in batch.inputs if o != m},
                    batch.target,
                ),
            )
            assert torch.allclose(hidden.prediction, alone.prediction, atol=1e-5)


def test_a_fusion_that_decides_and_preparation_are_refused(data):
    with pytest.raises(ef.InputError, match="'late' decides by what each modality says alone"):
        ef.build_model(data.shapes, "detection3d", 10, fusion="late")
    with pytest.raises(ef.InputError, match="has modalities 'points' and 'image', got a"):
        ef.build_model({"a": 3}, "detection3d", 10)


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.mark.slow
def test_training_evaluation_and_report_by_command(rooms, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "--data", rooms, "--format", "votenet", "--format-option", f"points={POINTS}"]
    words += ["--fusion", "deq", "--dim", "16", "--hidden", "16", "--epochs", "1", "--batch-size", "4", "--quiet"]
    assert run(*words, "--out", folder) == 0
    assert "map_25" in capsys.readouterr().out
    assert run("evaluate", folder, "--without", "image", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) >= {"loss", "map_25", "map_50"}
    assert run("evaluate", folder, "--data", rooms, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 10
    assert run("report", folder) == 0
    assert "Scenes" in (folder / "report/report.html").read_text()
    assert (folder / "report/plots/scene-2.svg").is_file()
    assert run(*words, "--prepare", "standardise", "--out", tmp_path / "other") == 2
    assert "leave out --prepare" in capsys.readouterr().err
