"""Made rooms: boxes on a floor, drawn by a program, in the layout of VoteNet. Nothing real is in them."""

import numpy as np

from equifuse.detection import box_corners
from equifuse.detection.sunrgbd import CLASSES, MEAN_SIZES

FOCAL, MIDDLE = 500.0, (320.0, 240.0)


def room(generator, points, kinds=("bed", "chair", "desk")):
    """Points (N, 6) of a made room, and its boxes (M, 8) with half sizes as prepared files have them."""
    boxes = []
    for slot, kind in enumerate(generator.permutation(kinds)[: generator.integers(1, len(kinds) + 1)]):
        size = np.array(MEAN_SIZES[kind]) * generator.uniform(0.9, 1.1, 3)
        centre = [2.2 * (slot - 1) + generator.uniform(-0.2, 0.2), generator.uniform(3.5, 5), size[2] / 2 - 1]
        boxes.append([*centre, *size / 2, generator.uniform(-np.pi, np.pi), CLASSES.index(kind)])
    boxes = np.array(boxes)
    floor = np.column_stack(
        [generator.uniform(-3, 3, points), generator.uniform(2.5, 6, points), np.full(points, -1.0)]
    )
    places, colours = [floor[: points // 3]], [np.full((points // 3, 3), 0.5)]
    share = (points - points // 3) // len(boxes)
    for box in boxes:
        inner = generator.uniform(-1, 1, (share, 3))
        face = generator.integers(0, 3, share)
        inner[np.arange(share), face] = np.sign(inner[np.arange(share), face])
        along, across, up = (0.98 * inner * box[3:6]).T
        cos, sin = np.cos(box[6]), np.sin(box[6])
        places.append(box[:3] + np.column_stack([cos * along + sin * across, cos * across - sin * along, up]))
        colours.append(np.tile(np.eye(3)[int(box[7]) % 3], (share, 1)))
    return np.concatenate([np.concatenate(places), np.concatenate(colours)], 1).astype(np.float32), boxes


def write_rooms(folder, count, points=3000, seed=0):
    """A folder of made rooms in the layout of extracted scenes; a fifth of them are of the part val."""
    generator = np.random.default_rng(seed)
    for name in ("calib", "label_v1", "lidar"):
        (folder / name).mkdir(parents=True)
    for number in range(1, count + 1):
        cloud, boxes = room(generator, points)
        np.savez(folder / f"lidar/{number:06d}.npz", pc=cloud)
        intrinsics = f"{FOCAL} 0 0 0 {FOCAL} 0 {MIDDLE[0]} {MIDDLE[1]} 1"
        (folder / f"calib/{number:06d}.txt").write_text(f"1 0 0 0 1 0 0 0 1\n{intrinsics}\n")
        lines = []
        for box in boxes:
            corners = box_corners(np.array([*box[:3], *2 * box[3:6], box[6]]))
            u = MIDDLE[0] + FOCAL * corners[:, 0] / corners[:, 1]
            v = MIDDLE[1] - FOCAL * corners[:, 2] / corners[:, 1]
            flat = [u.min(), v.min(), np.ptp(u), np.ptp(v)]
            numbers = [*flat, *box[:3], box[4], box[3], box[5], np.cos(box[6]), -np.sin(box[6])]
            lines.append(" ".join([CLASSES[int(box[7])], *(f"{x:.9f}" for x in numbers)]))
        (folder / f"label_v1/{number:06d}.txt").write_text("\n".join(lines) + "\n")
    test = max(1, count // 5)
    numbers = [str(i) for i in range(1, count + 1)]
    (folder / "val_data_idx.txt").write_text("\n".join(numbers[:test]) + "\n")
    (folder / "train_data_idx.txt").write_text("\n".join(numbers[test:]) + "\n")
    return folder
