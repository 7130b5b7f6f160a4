"""Objects in 3D of scenes, found by votes, as VoteNet and ImVoteNet do; fused seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.detection.network import (
    HEADINGS,
    OF_SEED,
    ImageSeedEncoder,
    SeedEncoder,
    VoteNetwork,
    of_proposal,
    seed_places,
)
from equifuse.detection.precision import Detections, mean_average_precision, suppress
from equifuse.detection.sunrgbd import CLASSES, MEAN_SIZES
from equifuse.errors import InputError
from equifuse.model import FusionModel, ModelOutput
from equifuse.model.heads import InputHead
from equifuse.tasks.base import Columns, Task, needed
from equifuse.tasks.boxes import Boxes, boxes_of
from equifuse.tasks.metrics import Detailed, Metric

# Metres: a proposal nearer to a centre than the first is an object, farther from all than the second is none.
_NEAR, _FAR = 0.3, 0.6
_EMPTY_WEIGHT, _OBJECT_WEIGHT = 0.2, 0.8
_BIN = 2 * math.pi / HEADINGS
# Of detections: the least points in a box, the overlap of two that are one, and the least objectness.
_LEAST_POINTS, _SAME, _LEAST_OBJECTNESS = 5, 0.25, 0.05
# A table shows objects that are surer.
_SHOWN = 0.5
_TINY = 1e-6


class Proposals(NamedTuple):
    """What a model says of scenes, taken apart.

    >>> from equifuse.tasks.detection import Proposals
    >>> found = Proposals.of(torch.zeros(2, 32 * 107), 10)
    >>> found.votes.shape, found.centre.shape, found.size.shape
    (torch.Size([2, 128, 3]), torch.Size([2, 32, 3]), torch.Size([2, 32, 10, 4]))

    Attributes:
        seeds: ``(B, S, 3)``.
        votes: ``(B, S, 3)``, where they vote for.
        places: ``(B, N, 3)``, the centres of groups of votes.
        objectness: ``(B, N, 2)``, logits of none and of an object.
        centre: ``(B, N, 3)``.
        heading: ``(B, N, 12, 2)``: of each bin its logit, and what is to be added in halves of a bin.
        size: ``(B, N, C, 4)``: of each class's mean size its logit, and what is to be added in shares of it.
        logits: ``(B, N, C)`` of the classes.
        points: ``(B, N)``, how many points are in the box; 0 in training.
    """

    seeds: Tensor
    votes: Tensor
    places: Tensor
    objectness: Tensor
    centre: Tensor
    heading: Tensor
    size: Tensor
    logits: Tensor
    points: Tensor

    @classmethod
    def of(cls, prediction: Tensor, classes: int) -> Proposals:
        """Of raw outputs ``(B, L)``.

        Raises:
            InputError: they are of another width.
        """
        each = 4 * OF_SEED + of_proposal(classes)
        count, left = divmod(prediction.shape[-1], each)
        if left or not count:
            raise InputError(
                f"detections of {classes} classes have a multiple of {each} numbers, got {prediction.shape}"
            )
        of_seeds = 4 * count * OF_SEED
        seeds = prediction[..., :of_seeds].reshape(len(prediction), 4 * count, OF_SEED)
        proposals = prediction[..., of_seeds:].reshape(len(prediction), count, of_proposal(classes))
        widths = (3, 2, 3, 2 * HEADINGS, 4 * classes, classes, 1)
        places, objectness, centre, heading, size, logits, points = torch.split_with_sizes(proposals, widths, -1)
        heading = heading.reshape(*heading.shape[:2], HEADINGS, 2)
        size = size.reshape(*size.shape[:2], classes, 4)
        return cls(seeds[..., :3], seeds[..., 3:], places, objectness, centre, heading, size, logits, points[..., 0])

    def boxes(self, sizes: Tensor) -> Tensor:
        """The likeliest box of each proposal: ``(B, N, 7)``; ``sizes`` are the classes' mean ones ``(C, 3)``."""
        turn = self.heading[..., 0].argmax(-1, keepdim=True)
        heading = turn * _BIN + self.heading[..., 1].gather(-1, turn) * (_BIN / 2)
        kind = self.size[..., 0].argmax(-1)
        added = self.size[..., 1:].gather(-2, kind[..., None, None].expand(*kind.shape, 1, 3)).squeeze(-2)
        size = (sizes[kind] * (1 + added)).clamp(min=_TINY)
        return torch.cat([self.centre, size, heading], -1)


class VoteHead(InputHead):
    """The head of detection: from fused seeds to raw outputs; it looks at the inputs for where the seeds are.

    Args:
        width: of the fused features.
        classes: number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.network = VoteNetwork(width, classes)
        self.classes = classes

    def forward(self, fused: Tensor, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``(B, S, width) -> (B, L)``, as :class:`Proposals` takes them apart."""
        seeds, proposals = self.network(seed_places(inputs, present).to(fused), fused)
        points = proposals.new_zeros(*proposals.shape[:2], 1)
        whole = torch.cat([seeds.flatten(1), torch.cat([proposals, points], -1).flatten(1)], -1)
        if self.training:
            return whole
        with torch.no_grad():
            boxes = Proposals.of(whole, self.classes).boxes(_mean_sizes(self.classes).to(fused))
            placed = seed_places(inputs, present)
            clouds = [cloud[:, :3] for cloud in inputs.get("points", placed)]
            lacking = ~present["points"] if "points" in present else [False] * len(clouds)
            clouds = [s if none else cloud for cloud, s, none in zip(clouds, placed, lacking, strict=True)]
            points = torch.stack([_inside(cloud, b) for cloud, b in zip(clouds, boxes, strict=True)])
        points = points.unsqueeze(-1).to(fused)
        return torch.cat([seeds.flatten(1), torch.cat([proposals, points], -1).flatten(1)], -1)


def _mean_sizes(classes: int) -> Tensor:
    return torch.tensor(list(MEAN_SIZES.values())[:classes])


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """How many points ``(P, 3)`` are in each box ``(N, 7)``, in float32."""
    return _within(points, boxes).sum(0)


def _within(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points ``(..., P, 3)`` are in which boxes ``(..., M, 7+)``; as :func:`equifuse.detection.inside_boxes`."""
    away = points.unsqueeze(-2) - boxes[..., None, :, :3]
    cos, sin = boxes[..., None, :, 6].cos(), boxes[..., None, :, 6].sin()
    turned = torch.stack(
        [cos * away[..., 0] - sin * away[..., 1], sin * away[..., 0] + cos * away[..., 1], away[..., 2]]
    )
    return (turned.abs() <= boxes[..., None, :, 3:6].movedim(-1, 0) / 2).all(0)


def precision_at(threshold: float) -> Metric:
    """The metric mAP at an overlap, with one part for each class.

    >>> from equifuse.tasks.detection import precision_at
    >>> precision_at(0.25).name
    'map_25'
    """

    def value(prediction: Any, target: Any, task: Task) -> Detailed:
        names = task.classes or CLASSES
        mean, each = mean_average_precision(list(prediction), list(target), len(names), threshold)
        parts = {name: ap for name, ap in zip(names, each, strict=True) if ap is not None}
        return Detailed(mean, parts if threshold == 0.25 else {})

    def nothing(prediction: Any, target: Any) -> str | None:
        return None if any(len(boxes) for boxes in target) else "there is no box"

    return Metric(
        f"map_{threshold * 100:.0f}",
        value,
        undefined_when=nothing,
        description=f"Mean over the classes of the average precision at an overlap of {threshold:g}.",
    )


class Detection3D(Task):
    """Oriented boxes of objects in scenes, of the ten classes of SUN RGB-D, by VoteNet's votes and losses.

    Modalities are ``points`` and ``image``, as :class:`equifuse.data.formats.VoteNetFormat` reads them; each is encoded
    to features of the same seeds, which the fusion makes one of, seed by seed. A seed that no box of the image is over
    lacks the modality ``image``. The loss is VoteNet's (Qi et al. 2019, Appendix A.1), the mean over the batch's seeds
    and proposals as there; samples have no weights.

    >>> task = make_task("detection3d")
    >>> task.headline, [metric.name for metric in task.measures]
    ('map_25', ['map_25', 'map_50'])

    Args:
        classes: the first of those of SUN RGB-D, all ten by default.

    Raises:
        InputError: classes that are not of SUN RGB-D.
    """

    name: ClassVar[str] = "detection3d"
    targets: ClassVar[Boxes] = Boxes()
    measures = (precision_at(0.25), precision_at(0.5))
    headline = "map_25"
    finds_boxes: ClassVar[bool] = True
    own_model: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __init__(self, classes: tuple[str, ...] | None = None) -> None:
        classes = CLASSES if classes is None else classes
        if tuple(classes) != CLASSES[: len(classes)] or not classes:
            raise InputError(f"detection3d knows {', '.join(CLASSES)}, in this order; got {', '.join(classes)}")
        super().__init__(tuple(classes))

    @classmethod
    def own_encoders(cls, shapes: Mapping[str, tuple[int, ...]], width: int) -> dict[str, nn.Module]:
        """PointNet++ for points, shared layers for what the image says.

        Raises:
            InputError: other modalities.
        """
        unknown = [m for m in shapes if m not in ("points", "image")]
        if unknown or not shapes:
            raise InputError(f"detection3d has modalities 'points' and 'image', got {', '.join(shapes) or 'none'}")
        made: dict[str, nn.Module] = {}
        for m, shape in shapes.items():
            made[m] = SeedEncoder(shape[0], width) if m == "points" else ImageSeedEncoder(shape[1] - 3, width)
        return made

    @classmethod
    def own_head(cls, in_dim: int, n_outputs: int) -> nn.Module:
        """Votes and proposals."""
        return VoteHead(in_dim, n_outputs)

    def forward(self, model: FusionModel, batch: Batch) -> ModelOutput:
        """The model's output, where seeds without a box in the image lack that modality."""
        inputs, present = dict(batch.inputs), dict(batch.present)
        for m, mask in batch.present.items():
            if not bool(mask.any()) and len(inputs) > 1:
                del inputs[m], present[m]
        if "image" in inputs:
            said = (inputs["image"][..., 3:].nan_to_num() != 0).any(-1)
            said &= present.get("image", said.new_ones(len(said))).reshape(-1, 1)
            present["image"] = said
        output: ModelOutput = model(inputs, present, index=None)
        return output

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """VoteNet's loss: of votes, objectness, boxes and classes."""
        return sum(self.losses(prediction, target).values(), prediction.new_zeros(()))

    def losses(self, prediction: Tensor, target: Tensor | None) -> dict[str, Tensor]:
        """The parts of the loss, with their factors, by name."""
        classes = len(self.classes or ())
        said, boxes = Proposals.of(prediction, classes), needed(target).to(prediction)
        real = boxes[..., 7] >= 0
        # An empty place is nowhere near.
        centres = torch.where(real.unsqueeze(-1), boxes[..., :3], 1e3)
        apart = torch.cdist(said.places.detach(), centres, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, which = apart.min(-1)
        objects, counted = nearest < _NEAR, (nearest < _NEAR) | (nearest > _FAR)
        factors = prediction.new_tensor([_EMPTY_WEIGHT, _OBJECT_WEIGHT])
        surprise = nn.functional.cross_entropy(
            said.objectness.movedim(-1, 1), objects.long(), factors, reduction="none"
        )
        assigned = boxes.gather(1, which.unsqueeze(-1).expand(-1, -1, 8))
        share, share_of = objects.to(prediction), _mean_over
        kind = assigned[..., 7].clamp(min=0).long()
        turn, rest = _bins(assigned[..., 6])
        mean = _mean_sizes(classes).to(prediction)[kind]
        added = said.size[..., 1:].gather(-2, kind[..., None, None].expand(*kind.shape, 1, 3)).squeeze(-2)
        lacking = torch.cdist(said.centre, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        huber = nn.functional.smooth_l1_loss
        found = {
            "vote": self._vote_loss(said, boxes, real),
            "objectness": 0.5 * share_of(surprise, counted.to(prediction)),
            "centre": share_of(lacking.amin(-1), share) + share_of(lacking.amin(1), real.to(prediction)),
            "heading_class": 0.1 * share_of(_entropy(said.heading[..., 0], turn), share),
            "heading": share_of(
                huber(said.heading[..., 1].gather(-1, turn.unsqueeze(-1)).squeeze(-1), rest, reduction="none"), share
            ),
            "size_class": 0.1 * share_of(_entropy(said.size[..., 0], kind), share),
            "size": share_of(huber(added, assigned[..., 3:6] / mean - 1, reduction="none").mean(-1), share),
            "class": 0.1 * share_of(_entropy(said.logits, kind), share),
        }
        return {name: 10 * value for name, value in found.items()}

    @staticmethod
    def _vote_loss(said: Proposals, boxes: Tensor, real: Tensor) -> Tensor:
        """Distance (L1) of the votes of seeds in boxes to the nearest centre of those boxes."""
        within = _within(said.seeds, boxes) & real.unsqueeze(1)
        away = (said.votes.unsqueeze(2) - boxes[:, None, :, :3]).abs().sum(-1)
        least = away.masked_fill(~within, torch.inf).amin(-1)
        inside = within.any(-1)
        return _mean_over(torch.where(inside, least, 0), inside.to(least))

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Detections of each scene, and its boxes ``(M, 8)``, as objects."""
        found = np.empty(len(prediction), dtype=object)
        found[:] = self.detections(prediction)
        if target is None:
            return found, None
        boxes = np.empty(len(target), dtype=object)
        boxes[:] = [boxes_of(scene) for scene in target.cpu().numpy()]
        return found, boxes

    def detections(self, prediction: Tensor) -> list[Detections]:
        """Boxes with classes and scores, of each scene of raw outputs ``(n, L)``.

        Boxes with fewer than five points and those with an objectness of at most 0.05 are left out; of boxes of a class
        that overlap, the surest stays; then each has every class, with its probability times the objectness as score.
        """
        classes = len(self.classes or ())
        said = Proposals.of(prediction.detach().float().cpu(), classes)
        boxes = said.boxes(_mean_sizes(classes)).double().numpy()
        likely = said.logits.double().softmax(-1).numpy()
        sure = said.objectness.double().softmax(-1)[..., 1].numpy()
        full = said.points.numpy() >= _LEAST_POINTS
        found = []
        for scene in range(len(prediction)):
            here = np.flatnonzero(full[scene] & (sure[scene] > _LEAST_OBJECTNESS))
            kind = likely[scene, here].argmax(-1)
            here = here[suppress(boxes[scene, here], kind, sure[scene, here], _SAME)]
            scores = (sure[scene, here, None] * likely[scene, here]).ravel()
            every = np.tile(np.arange(classes), len(here))
            found.append(Detections(np.repeat(boxes[scene, here], classes, 0), every, scores))
        return found

    def predict(self, prediction: Tensor) -> Columns:
        """How many objects are surely there, and those as JSON: class, score, centre, size and heading."""
        counts, texts = [], []
        for scene in self.detections(prediction):
            sure = np.flatnonzero(scene.scores > _SHOWN)
            entries = [
                {
                    "class": (self.classes or ())[scene.classes[i]],
                    "score": round(float(scene.scores[i]), 4),
                    "box": [round(float(number), 4) for number in scene.boxes[i]],
                }
                for i in sure[np.argsort(-scene.scores[sure], kind="stable")]
            ]
            counts.append(len(entries))
            texts.append(json.dumps(entries))
        return {"objects": np.array(counts, dtype=np.int64), "detections": np.array(texts, dtype=str)}


def _mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of what counts; 0 where nothing does."""
    return (values * weight).sum() / (weight.sum() + _TINY)


def _entropy(logits: Tensor, which: Tensor) -> Tensor:
    """Cross-entropy of ``(B, N, C)`` with ``(B, N)``, each."""
    return nn.functional.cross_entropy(logits.movedim(-1, 1), which, reduction="none")


def _bins(heading: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of a heading, whose middle is a multiple of 30 degrees, and what is left in halves of a bin."""
    shifted = (heading + _BIN / 2).remainder(2 * math.pi)
    turn = (shifted / _BIN).long().clamp(max=HEADINGS - 1)
    return turn, (shifted - _BIN / 2 - turn * _BIN) / (_BIN / 2)
