"""Average precision: cases whose value is known."""

import numpy as np
import pytest

from equifuse.detection import Detections, mean_average_precision, suppress
from equifuse.errors import InputError


def at(x, c=0):
    return [x, 0, 0, 1, 1, 1, 0, c]


def truth(*boxes):
    return np.array(boxes, dtype=float).reshape(-1, 8)


def found(*entries):
    """Detections of (x, class, score)."""
    boxes = np.array([at(x)[:7] for x, _, _ in entries], dtype=float).reshape(-1, 7)
    return Detections(boxes, np.array([c for _, c, _ in entries], int), np.array([s for *_, s in entries], float))


def test_what_is_found_exactly_is_one():
    scenes = [truth(at(0, 0), at(3, 1)), truth(at(5, 0))]
    perfect = [Detections(t[:, :7], t[:, 7].astype(int), np.linspace(0.9, 0.5, len(t))) for t in scenes]
    assert mean_average_precision(perfect, scenes, 2, 0.5) == (1.0, [1.0, 1.0])


def test_a_second_detection_of_a_box_is_wrong():
    value, _ = mean_average_precision([found((0, 0, 0.9), (0.01, 0, 0.8), (3, 0, 0.7))], [truth(at(0), at(3))], 1)
    assert value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_second_choice_is_not_tried():
    # The second detection overlaps both, the box that is taken more: it does not get the other one.
    scene = truth(at(0), at(0.6))
    value, _ = mean_average_precision([found((0, 0, 0.9), (0.2, 0, 0.8))], [scene], 1)
    assert value == pytest.approx(0.5)


@pytest.mark.parametrize(("threshold", "value"), [(0.24, 1.0), (1 / 3, 0.0), (0.34, 0.0)])
def test_an_overlap_that_equals_the_threshold_is_wrong(threshold, value):
    # Half of either box is common: 0.5 / 1.5.
    assert mean_average_precision([found((0.5, 0, 0.9))], [truth(at(0))], 1, threshold)[0] == value


def test_a_class_that_is_not_found_is_zero_and_one_that_is_nowhere_does_not_count():
    value, each = mean_average_precision([found((0, 0, 0.9), (0, 2, 0.9))], [truth(at(0, 0), at(3, 1))], 4)
    assert each == [1.0, 0.0, None, None]
    assert value == 0.5


def test_scenes_are_taken_together_by_score():
    scenes = [truth(at(0)), truth(at(0))]
    sure = [found((0, 0, 0.9)), found((9, 0, 0.8), (0, 0, 0.7))]
    assert mean_average_precision(sure, scenes, 1)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    first = [found((0, 0, 0.6)), found((9, 0, 0.8), (0, 0, 0.7))]
    assert mean_average_precision(first, scenes, 1)[0] == pytest.approx(2 / 3)


def test_it_is_that_of_scikit_learn_where_precision_falls():
    # Without the envelope: equal where precision never rises.
    from sklearn.metrics import average_precision_score

    right = np.array([1, 1, 1, 0, 1, 0, 0])
    scores = np.linspace(0.9, 0.3, 7)
    scene = truth(*(at(3 * i) for i in np.flatnonzero(right)))
    entries = [(3 * i if r else 100 + 3 * i, 0, s) for i, (r, s) in enumerate(zip(right, scores, strict=True))]
    value, _ = mean_average_precision([found(*entries)], [scene], 1)
    assert value == pytest.approx(average_precision_score(right, scores))


def test_the_order_of_scenes_and_boxes_does_not_matter():
    generator = np.random.default_rng(0)
    scenes = [
        truth(*(at(x, c) for x, c in zip(generator.uniform(0, 5, 6), generator.integers(0, 3, 6), strict=True)))
        for _ in range(5)
    ]
    detected = [found(*((x + generator.normal() * 0.3, int(c), generator.random()) for x, *_, c in s)) for s in scenes]
    value = mean_average_precision(detected, scenes, 3)[0]
    assert 0 < value < 1
    turned = [Detections(d.boxes[::-1], d.classes[::-1], d.scores[::-1]) for d in detected[::-1]]
    assert mean_average_precision(turned, [s[::-1] for s in scenes[::-1]], 3)[0] == pytest.approx(value)


def test_nothing_found_and_nothing_there():
    none = found()
    assert mean_average_precision([none], [truth(at(0))], 2) == (0.0, [0.0, None])
    assert mean_average_precision([found((0, 0, 0.5))], [truth()], 1) == (None, [None])
    with pytest.raises(InputError, match="detections of 1 scenes, true boxes of 2"):
        mean_average_precision([none], [truth(), truth()], 1)


def test_suppression_is_by_class_and_keeps_the_surest():
    boxes = np.array([at(x)[:7] for x in (0, 0.2, 0.4, 0)])
    kept = suppress(boxes, np.array([0, 0, 0, 1]), np.array([0.5, 0.9, 0.6, 0.1]))
    assert kept.tolist() == [1, 3]
    assert suppress(np.zeros((0, 7)), np.zeros(0, int), np.zeros(0)).tolist() == []
