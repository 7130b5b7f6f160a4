"""VoteNet's network (Qi et al. 2019) in plain PyTorch: seeds of points and image, votes of seeds, boxes of votes.

Points come in the order of farthest-point sampling (:func:`equifuse.detection.farthest_points`), so that the samples of
every layer are a cloud's first points, and nothing is sampled here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from equifuse.detection.scenes import proposals_of, seeds_of

# Bins of the heading.
HEADINGS = 12
# Numbers of a seed: where it is, where its vote is.
OF_SEED = 6
# Metres around the centre of a group of votes, and how many votes are in it.
_NEAR, _VOTES = 0.3, 16
_WIDTHS = (128, 128)
_TINY = 1e-8


def of_proposal(classes: int) -> int:
    """Numbers of a proposal: place (3), objectness (2), centre (3), heading, size (of each class), class, points."""
    return 3 + 2 + 3 + 2 * HEADINGS + 4 * classes + classes + 1


class PointLayers(nn.Module):
    """Affine maps with batch normalisation and ReLU, the same for every point: ``(..., a) -> (..., z)``.

    Args:
        widths: from ``a`` to ``z``.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Every point by itself."""
        out: Tensor = self.layers(x.flatten(0, -2))
        return out.reshape(*x.shape[:-1], -1)


def neighbours(centres: Tensor, points: Tensor, radius: float, count: int) -> Tensor:
    """Numbers ``(B, S, count)`` of the nearest points within a radius; the nearest again where there are too few.

    Args:
        centres: ``(B, S, 3)``, each of them one of the points.
        points: ``(B, P, 3)``.
        radius: in metres.
        count: at most ``P``.
    """
    away, index = torch.cdist(centres, points).topk(min(count, points.shape[1]), largest=False)
    return torch.where(away <= radius, index, index[..., :1])


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, ..., l)`` of ``(B, P, l)`` at ``(B, ...)``."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).reshape(*index.shape, x.shape[-1])


def spread(points: Tensor, count: int) -> Tensor:
    """Numbers ``(B, count)`` of points ``(B, P, 3)``: :func:`equifuse.detection.farthest_points`, on any device."""
    chosen = points.new_zeros(len(points), count, dtype=torch.int64)
    nearest = points.new_full(points.shape[:2], torch.inf)
    for i in range(1, count):
        last = gathered(points, chosen[:, i - 1 : i])
        nearest = torch.minimum(nearest, (points - last).square().sum(-1))
        chosen[:, i] = nearest.argmax(1)
    return chosen


class SetAbstraction(nn.Module):
    """PointNet++'s layer (Qi et al. 2017): what is around each of the first points, in one vector.

    Args:
        samples: how many points are left.
        radius: in metres.
        count: of neighbours.
        widths: of the layers; the first is that of the points' features, without their places.
    """

    def __init__(self, samples: int, radius: float, count: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.samples, self.radius, self.count = samples, radius, count
        self.layers = PointLayers((widths[0] + 3, *widths[1:]))

    def forward(self, places: Tensor, features: Tensor) -> Tensor:
        """``(B, P, 3)`` and ``(B, P, a)`` to ``(B, samples, z)``."""
        if torch.is_grad_enabled() or len(places) == 1:
            return self._of(places, features)
        # Scene by scene, so that evaluation needs the memory of one.
        return torch.cat([self._of(*scene) for scene in zip(places[:, None], features[:, None], strict=True)])

    def _of(self, places: Tensor, features: Tensor) -> Tensor:
        centres = places[:, : self.samples]
        with torch.no_grad():
            index = neighbours(centres, places, self.radius, self.count)
        away = (gathered(places, index) - centres.unsqueeze(2)) / self.radius
        out: Tensor = self.layers(torch.cat([away, gathered(features, index)], -1))
        return out.amax(2)


class Propagation(nn.Module):
    """PointNet++'s way back: features of few points for more of them, by the three nearest.

    Args:
        widths: of the layers; the first is that of both features together.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = PointLayers(widths)

    def forward(self, places: Tensor, own: Tensor, few: Tensor) -> Tensor:
        """Features ``(B, S, z)`` of ``(B, S, 3)``, whose own are ``(B, S, a)``; the first of them have ``few``."""
        away, index = torch.cdist(places, places[:, : few.shape[1]]).topk(3, largest=False)
        nearness = 1 / away.clamp(min=_TINY)
        share = nearness / nearness.sum(-1, keepdim=True)
        out: Tensor = self.layers(torch.cat([(gathered(few, index) * share.unsqueeze(-1)).sum(2), own], -1))
        return out


class SeedEncoder(nn.Module):
    """Features of seeds from points, by PointNet++: ``(B, P, 4) -> (B, S, width)``.

    With 20,000 points and a width of 256 it is VoteNet's: 2,048, 1,024, 512 and 256 samples, radii of 0.2, 0.4, 0.8 and
    1.2 m, 64, 32, 16 and 16 neighbours.

    Args:
        points: number of points ``P``.
        width: of the features.
    """

    def __init__(self, points: int, width: int) -> None:
        super().__init__()
        self.seeds = seeds_of(points)
        half, quarter = max(width // 2, 1), max(width // 4, 1)
        sizes = (2 * self.seeds, self.seeds, self.seeds // 2, self.seeds // 4)
        widths = (
            (1, quarter, quarter, half),
            (half, half, half, width),
            (width, half, half, width),
            (width, half, half, width),
        )
        self.down = nn.ModuleList(
            SetAbstraction(*layer) for layer in zip(sizes, (0.2, 0.4, 0.8, 1.2), (64, 32, 16, 16), widths, strict=True)
        )
        self.up = nn.ModuleList(Propagation((2 * width, width, width)) for _ in range(2))

    def forward(self, points: Tensor) -> Tensor:
        """Points with their height above the floor."""
        places, x = points[..., :3], points[..., 3:]
        found = []
        for layer in self.down:
            x = layer(places, x)
            places = places[:, : x.shape[1]]
            found.append(x)
        _, seeds, fewer, fewest = found
        places = points[..., :3]
        middle = self.up[0](places[:, : fewer.shape[1]], fewer, fewest)
        out: Tensor = self.up[1](places[:, : seeds.shape[1]], seeds, middle)
        return out


class ImageSeedEncoder(nn.Module):
    """Features of seeds from what the image says of them: ``(B, S, 3 + l) -> (B, S, width)``, as ImVoteNet has it.

    Args:
        said: width ``l`` of what the image says.
        width: of the features.
    """

    def __init__(self, said: int, width: int) -> None:
        super().__init__()
        self.layers = PointLayers((said, width, width))

    def forward(self, seeds: Tensor) -> Tensor:
        """Seeds with their places, which are left out."""
        out: Tensor = self.layers(seeds[..., 3:])
        return out


class VoteNetwork(nn.Module):
    """Votes of seeds, groups of votes, and a proposal of each group.

    Args:
        width: of a seed's fused features.
        classes: number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.vote = nn.Sequential(PointLayers((width, width, width)), nn.Linear(width, 3 + width))
        self.group = PointLayers((width + 3, *_WIDTHS, _WIDTHS[-1]))
        self.propose = nn.Sequential(
            PointLayers((_WIDTHS[-1], *_WIDTHS)), nn.Linear(_WIDTHS[-1], of_proposal(classes) - 4)
        )

    def forward(self, seeds: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds ``(B, S, 3)`` with fused features to ``(B, S, 6)``, and proposals ``(B, S / 4, ...)`` without points.

        The groups are around votes that are spread by farthest-point sampling, so that where votes meet is one of them.
        """
        voted = self.vote(features)
        votes = seeds + voted[..., :3]
        features = nn.functional.normalize(features + voted[..., 3:], dim=-1)
        with torch.no_grad():
            chosen = spread(votes, proposals_of(seeds.shape[1]))
        centres = gathered(votes, chosen)
        with torch.no_grad():
            index = neighbours(centres, votes, _NEAR, min(_VOTES, votes.shape[1]))
        away = (gathered(votes, index) - centres.unsqueeze(2)) / _NEAR
        grouped = self.group(torch.cat([away, gathered(features, index)], -1)).amax(2)
        raw = self.propose(grouped)
        objectness, centre, rest = raw[..., :2], raw[..., 2:5], raw[..., 5:]
        return torch.cat([seeds, votes], -1), torch.cat([centres, objectness, centres + centre, rest], -1)


def seed_places(inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Where the seeds ``(B, S, 3)`` are: the first points, or for scenes without points those of the image."""
    if "image" not in inputs:
        points = inputs["points"]
        return points[:, : seeds_of(points.shape[1]), :3]
    of_image = inputs["image"][..., :3]
    if "points" not in inputs:
        return of_image
    places = inputs["points"][:, : of_image.shape[1], :3]
    mask = present.get("points")
    return places if mask is None else torch.where(mask.reshape(len(places), 1, 1), places, of_image)
