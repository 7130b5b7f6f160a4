"""What two sources say of a target, taken apart: shared, of each alone, and only together."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.information.measures import entropy, gaussian_information, mutual_information

Floats = NDArray[np.float64]
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Decomposition:
    """A partial information decomposition, in bits.

    >>> Decomposition(0.2, 0.1, 0.0, 0.5).joint
    0.8

    Attributes:
        redundancy: either of them says it.
        unique_a: only the first.
        unique_b: only the second.
        synergy: neither alone, both together.
    """

    redundancy: float
    unique_a: float
    unique_b: float
    synergy: float

    @property
    def joint(self) -> float:
        """What both together say: the sum of all four."""
        return self.redundancy + self.unique_a + self.unique_b + self.synergy

    @classmethod
    def of(cls, a: float, b: float, joint: float, union: float) -> Decomposition:
        """From what each says, what both say, and the least that two such sources can say together."""
        redundancy = a + b - union
        return cls(redundancy, a - redundancy, b - redundancy, joint - union)

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)


def decompose(joint: Floats) -> Decomposition:
    """The decomposition of Bertschinger et al. of a discrete distribution, exactly, as a convex programme.

    Of all distributions that agree with the given one on ``(a, y)`` and on ``(b, y)``, the one whose sources say least
    together leaves only what is redundant or unique; what the given one says beyond it is synergy (Bertschinger, Rauh,
    Olbrich, Jost, Ay: Quantifying unique information, arXiv 1311.2852, Definition 1). Solved by Clarabel.

    >>> xor = np.array([[[0.25, 0], [0, 0.25]], [[0, 0.25], [0.25, 0]]])
    >>> {name: abs(round(value, 3)) for name, value in decompose(xor).to_dict().items()}
    {'redundancy': 0.0, 'unique_a': 0.0, 'unique_b': 0.0, 'synergy': 1.0}

    Args:
        joint: ``(A, B, K)`` probabilities or counts of both sources' states and the target's.

    Raises:
        InputError: no such table, the extra ``information`` is not installed, or the solver fails.
    """
    p = _normalised(joint)
    union = _exact_union(p.sum(1), p.sum(0))
    together = mutual_information(p.reshape(-1, p.shape[2]))
    return Decomposition.of(mutual_information(p.sum(1)), mutual_information(p.sum(0)), together, union)


def _normalised(joint: Floats) -> Floats:
    p = np.asarray(joint, dtype=np.float64)
    if p.ndim != 3 or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise InputError(f"a joint distribution is (A, B, K) numbers of at least 0, not all 0; got shape {p.shape}")
    return np.asarray(p / p.sum(), dtype=np.float64)


def _exact_union(first: Floats, second: Floats) -> float:
    """``min I_Q(Y; A, B)`` over the joint distributions of the tables ``(A, K)`` and ``(B, K)``; their target agrees.

    Only cells that can hold anything are variables: a state that never meets a class has none with it.
    """
    cp = require("information", "cvxpy", "the exact decomposition")
    require("information", "clarabel", "the exact decomposition")
    cells = np.argwhere((first[:, None, :] > 0) & (second[None, :, :] > 0))
    a, b, y = cells.T
    pair = a * len(second) + b
    q = cp.Variable(len(cells), nonneg=True)

    def sums(group: NDArray[np.intp], total: Floats) -> tuple[object, Floats]:
        matrix = np.zeros((total.size, len(cells)))
        matrix[group, np.arange(len(cells))] = 1
        kept = matrix.any(1)
        return matrix[kept] @ q, total.ravel()[kept]

    classes = first.shape[1]
    left, left_total = sums(a * classes + y, first)
    right, right_total = sums(b * classes + y, second)
    same_pair = (pair[:, None] == pair[None]).astype(np.float64)
    objective = cp.Minimize(cp.sum(cp.rel_entr(q, same_pair @ q)))
    problem = cp.Problem(objective, [left == left_total, right == right_total])
    try:
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    except cp.error.SolverError as error:
        raise InputError(f"the decomposition could not be solved: {error}; take fewer states") from None
    if problem.value is None or not np.isfinite(problem.value):
        raise InputError(f"the decomposition could not be solved ({problem.status}); take fewer states")
    return entropy(first.sum(0)) + float(problem.value) / float(np.log(2))


def union_information(first: Floats, second: Floats, steps: int = 400, inner: int = 8) -> float:
    """What two sources say of a target at least, in bits, by their tables with it: fast, without a solver.

    The programme of :func:`decompose` by alternating projections: ``I_Q = min_R D(Q ‖ R(a, b) p(y))``, where ``R`` is
    the sum of ``Q`` over ``y``, and given ``R`` each ``Q(·|y)`` is a scaling of it with the right marginals (Sinkhorn).
    It comes near from above; after the usual number of steps to about 0.001 bits.

    >>> both = np.array([[0.5, 0.0], [0.25, 0.25]])  # of a and of b, as for the gate AND
    >>> round(union_information(both, both), 3)
    0.311

    Args:
        first: ``(A, K)`` probabilities or counts.
        second: ``(B, K)``, of the same total for each of the K classes.
        steps: of the outer loop.
        inner: scalings in each.
    """
    seen = first.sum(0) > 0
    share = first[:, seen].sum(0) / first.sum()
    rows = (first[:, seen] / first[:, seen].sum(0)).T[:, :, None]  # (K, A, 1)
    columns = (second[:, seen] / second[:, seen].sum(0)).T[:, None, :]  # (K, 1, B)
    q = rows * columns
    value = np.inf
    for step in range(steps):
        reference = np.einsum("k,kab->ab", share, q)
        q = np.where((rows > 0) & (columns > 0), reference[None], 0.0)
        for _ in range(inner):
            q *= rows / np.maximum(q.sum(2, keepdims=True), 1e-300)
            q *= columns / np.maximum(q.sum(1, keepdims=True), 1e-300)
        if step % 20 == 19:
            newest = mutual_information((q * share[:, None, None]).reshape(len(share), -1))
            if value - newest < _TOLERANCE:
                return newest
            value = newest
    return value


def shared_fraction(first: Floats, second: Floats, steps: int = 400) -> float:
    """How much of what the weaker of two sources says is redundant, from 0 to 1; 0 where it says nothing.

    >>> copies = np.eye(2)
    >>> round(shared_fraction(copies, copies), 6)
    1.0

    Args:
        first: ``(A, K)`` probabilities or counts of a source's states and the target's.
        second: ``(B, K)``, likewise, with the same counts of the target.
        steps: as of :func:`union_information`.
    """
    a, b = mutual_information(first), mutual_information(second)
    if min(a, b) <= _TOLERANCE:
        return 0.0
    return float(np.clip((a + b - union_information(first, second, steps)) / min(a, b), 0.0, 1.0))


def decompose_gaussian(covariance: Floats, a: list[int], b: list[int], y: int) -> Decomposition:
    """The decomposition of jointly Gaussian sources and one Gaussian target.

    Whatever is defined by ``(a, y)`` and ``(b, y)`` alone makes the redundancy that of the weaker source (Barrett,
    arXiv 1411.2832): at least one of the unique parts is 0.

    >>> c = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
    >>> found = decompose_gaussian(c, [0], [1], 2)
    >>> found.unique_a, round(found.redundancy, 3), round(found.synergy, 3)
    (0.0, 0.208, 0.292)

    Args:
        covariance: ``(d, d)``.
        a: coordinates of the first source.
        b: coordinates of the second.
        y: coordinate of the target.
    """
    first, second = (gaussian_information(covariance, x, [y]) for x in (a, b))
    return Decomposition.of(first, second, gaussian_information(covariance, [*a, *b], [y]), max(first, second))
