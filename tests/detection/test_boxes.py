"""Boxes, cameras and votes: identities, and the real scenes of SUN RGB-D exactly."""

import numpy as np
import pytest

from equifuse.detection import (
    Boxes2D,
    Calibration,
    box_corners,
    box_iou,
    farthest_points,
    image_votes,
    inside_boxes,
    point_votes,
)
from equifuse.errors import DataError, InputError

SCENES = (1, 2, 3, 4)
BOX = np.array([[0.0, 0, 0, 2, 1, 1, 0]])


@pytest.fixture(scope="module")
def scenes(data_root):
    root = data_root / "sunrgbd_mini"
    if not root.is_dir():
        pytest.skip("needs the scenes of SUN RGB-D: set EQUIFUSE_DATA")
    return root


def boxes(generator, count):
    return np.concatenate(
        [
            generator.normal(size=(count, 3)),
            generator.uniform(0.5, 2, (count, 3)),
            generator.uniform(-4, 4, (count, 1)),
        ],
        axis=1,
    )


def turned(angle):
    return shifted(heading=angle)


def shifted(x=0.0, z=0.0, heading=0.0):
    return BOX + np.array([x, 0, z, 0, 0, 0, heading])


@pytest.mark.parametrize(
    ("angle", "overlap"), [(0, 1), (np.pi / 4, 0.517428), (np.pi / 2, 1 / 3), (np.pi, 1), (-3 * np.pi / 4, 0.517428)]
)
def test_overlap_of_a_box_with_itself_turned(angle, overlap):
    assert box_iou(BOX, turned(angle))[0, 0] == pytest.approx(overlap, abs=1e-6)


def test_overlap_is_that_of_many_points():
    generator = np.random.default_rng(0)
    one, other = boxes(generator, 6), boxes(generator, 5)
    points = generator.uniform(-2.5, 2.5, (200_000, 3))
    first, second = inside_boxes(points, one), inside_boxes(points, other)
    both = np.einsum("pi,pj->ij", first.astype(float), second.astype(float))
    either = first.sum(0)[:, None] + second.sum(0)[None] - both
    np.testing.assert_allclose(box_iou(one, other), both / either, atol=0.02)
    np.testing.assert_allclose(box_iou(one, other), box_iou(other, one).T, atol=1e-12)


def test_overlap_of_a_box_inside_of_another_and_of_boxes_that_touch():
    half = BOX * [1, 1, 1, 0.5, 0.5, 0.5, 1]
    assert box_iou(BOX, half)[0, 0] == pytest.approx(1 / 8)
    assert box_iou(BOX, shifted(x=2))[0, 0] == pytest.approx(0, abs=1e-12)
    assert box_iou(BOX, shifted(z=1))[0, 0] == pytest.approx(0, abs=1e-12)
    assert box_iou(np.zeros((0, 7)), BOX).shape == (0, 1)


def test_corners_are_inside_and_beyond_them_is_outside():
    some = boxes(np.random.default_rng(1), 7)
    for box, corners in zip(some, box_corners(some), strict=True):
        inner, outer = (box[:3] + (corners - box[:3]) * factor for factor in (1 - 1e-6, 1 + 1e-6))
        assert inside_boxes(inner, box[None]).all()
        assert not inside_boxes(outer, box[None]).any()


def test_farthest_points_of_every_size_are_the_first_of_more():
    points = np.random.default_rng(2).normal(size=(500, 4))
    order = farthest_points(points, 64)
    assert len(set(order.tolist())) == 64
    np.testing.assert_array_equal(order[:16], farthest_points(points, 16))
    np.testing.assert_array_equal(np.arange(16), farthest_points(points[order], 16))
    for k in (1, 2, 40):  # by its definition
        away = np.linalg.norm(points[:, None, :3] - points[None, order[:k], :3], axis=-1).min(1)
        assert away[order[k]] == pytest.approx(away.max())
    with pytest.raises(InputError, match="cannot choose 501 of 500 points"):
        farthest_points(points, 501)


def test_votes_of_points_in_several_boxes():
    many = np.array([[x, 0, 0, 2, 2, 2, 0.0] for x in (0.0, 0.1, 0.2, 0.3)])
    for count, expected in ((1, (0, 0, 0)), (2, (0, 0.1, 0)), (3, (0, 0.1, 0.2)), (4, (0, 0.1, 0.3))):
        inside, votes = point_votes(np.zeros((1, 3)), many[:count])
        assert inside.all()
        assert votes[0, :, 0].tolist() == list(expected)


def test_an_image_vote_goes_along_the_ray_through_the_centre_of_the_box():
    generator = np.random.default_rng(3)
    tilt, _ = np.linalg.qr(generator.normal(size=(3, 3)) * 0.1 + np.eye(3))
    tilt *= np.sign(np.diag(tilt))[None]
    camera = Calibration(tilt, np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]))
    points = generator.uniform((-1, 2, -1), (1, 4, 1), (50, 3))
    found = Boxes2D(np.array([[0.0, 0, 700, 500], [200, 150, 500, 400]]), np.array([1, 0]), np.array([0.5, 0.5]))
    votes = image_votes(points, np.zeros((50, 3)), camera, found, 2)
    has = votes.any(1)
    assert has.sum() > 40
    points, votes = points[has], votes[has]
    ended = points + np.stack([votes[:, 0], np.zeros(len(votes)), votes[:, 1]], -1)
    where, _ = camera.project(ended)
    surest = np.where(votes[:, 5:7].argmax(1)[:, None] == 0, [[351.0, 276]], [[351.0, 251]])
    assert set(votes[:, 5:7].argmax(1)) == {0, 1}  # the smaller box where it is, else the larger one
    np.testing.assert_allclose(where, surest, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(votes[:, 2:5], axis=1), 1, atol=1e-6)


def test_a_point_without_a_box_has_no_image_vote():
    camera = Calibration(np.eye(3), np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]))
    found = Boxes2D(np.array([[0.0, 0, 10, 10]]), np.array([0]), np.array([1.0]))
    behind = np.array([[0.0, 2, 0], [0.0, -2, 0]])
    assert not image_votes(behind, np.ones((2, 3)), camera, found, 1).any()


def test_a_damaged_calibration_is_named(tmp_path):
    (tmp_path / "1.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"1\.txt is no calibration"):
        Calibration.read(tmp_path / "1.txt")


def labelled(path):
    """Boxes of a label file, as its layout is described: half sizes w, l, h, and a direction."""
    rows = [line.split() for line in path.read_text().splitlines()]
    numbers = np.array([[float(word) for word in row[1:13]] for row in rows])
    heading = -np.arctan2(numbers[:, 11], numbers[:, 10])
    return (
        [row[0] for row in rows],
        np.column_stack([numbers[:, 4:7], 2 * numbers[:, [8, 7, 9]], heading]),
        numbers[:, :4],
    )


@pytest.mark.data
@pytest.mark.parametrize("scene", SCENES)
def test_points_have_the_colours_of_their_pixels(scenes, scene):
    image = pytest.importorskip("PIL.Image")
    picture = np.asarray(image.open(scenes / f"image/{scene:06d}.jpg").convert("RGB"))
    cloud = np.load(scenes / f"lidar/{scene:06d}.npz")["pc"]
    where, ahead = Calibration.read(scenes / f"calib/{scene:06d}.txt").project(cloud)
    column, row = Calibration.pixels(where).T
    within = (column >= 0) & (column < picture.shape[1]) & (row >= 0) & (row < picture.shape[0])
    assert within.mean() > 0.99
    assert (ahead > 0).all()
    np.testing.assert_array_equal(
        picture[row[within], column[within]], np.round(cloud[within, 3:] * 255).astype(np.uint8)
    )


@pytest.mark.data
@pytest.mark.parametrize("scene", SCENES)
def test_what_is_in_a_box_is_in_its_box_of_the_image(scenes, scene):
    cloud = np.load(scenes / f"lidar/{scene:06d}.npz")["pc"]
    camera = Calibration.read(scenes / f"calib/{scene:06d}.txt")
    _, boxes, flat = labelled(scenes / f"label_v1/{scene:06d}.txt")
    for box, (left, top, width, height) in zip(boxes, flat, strict=True):
        where, _ = camera.project(cloud[inside_boxes(cloud, box[None])[:, 0]])
        assert where[:, 0].min() > left - 4
        assert where[:, 0].max() < left + width + 4
        assert where[:, 1].min() > top - 4
        assert where[:, 1].max() < top + height + 4


@pytest.mark.data
@pytest.mark.parametrize("part", ["train", "val"])
def test_votes_are_those_of_the_prepared_files(scenes, part):
    folder = scenes / "votenet_prepared" / part
    stored = np.load(folder / "000001_bbox.npy")
    boxes = np.column_stack([stored[:, :3], 2 * stored[:, 3:6], stored[:, 6]])
    cloud = np.load(folder / "000001_pc.npz")["pc"]
    prepared = np.load(folder / "000001_votes.npz")["point_votes"]
    inside, votes = point_votes(cloud, boxes)
    different = inside != (prepared[:, 0] == 1)
    assert different.mean() < 1e-4  # on a side, by rounding
    same = ~different
    np.testing.assert_allclose(votes[same].reshape(-1, 9), prepared[same, 1:], atol=1e-6)


@pytest.mark.data
def test_boxes_of_labels_are_those_of_the_prepared_files(scenes):
    stored = np.load(scenes / "votenet_prepared/val/000001_bbox.npy")
    names, boxes, _ = labelled(scenes / "label_v1/000001.txt")
    kept = boxes[[names.index(name) for name in ("bed", "night_stand", "dresser")]]
    np.testing.assert_allclose(kept, np.column_stack([stored[:, :3], 2 * stored[:, 3:6], stored[:, 6]]), atol=1e-6)
