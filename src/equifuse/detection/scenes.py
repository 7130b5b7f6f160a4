"""How many seeds and proposals a scene of so many points has."""

from __future__ import annotations

# Points of a scene for each seed, about; and seeds for each proposal: 20,000 points, 1,024 seeds, 256 proposals.
_PER_SEED, _PER_PROPOSAL = 16, 4
# With fewer there are not enough seeds for the layers of the network.
LEAST_POINTS = 512


def seeds_of(points: int) -> int:
    """Seeds of a scene: the power of two at or below a sixteenth of its points.

    >>> from equifuse.detection.scenes import seeds_of
    >>> seeds_of(20_000), seeds_of(4096)
    (1024, 256)
    """
    return int(2 ** ((points // _PER_SEED).bit_length() - 1))


def proposals_of(seeds: int) -> int:
    """Proposals of a scene: a quarter of its seeds."""
    return seeds // _PER_PROPOSAL
