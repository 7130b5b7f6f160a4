"""What the numbers mean for somebody who wonders whether to fuse, in a sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equifuse.information.measurement import Interactions, Pair

# Bits, and share of the target's entropy, below which a difference says nothing.
_NOTHING, _LITTLE = 0.02, 0.02
# Share of what two say that has to be beyond all else to be called interaction.
_SOME = 0.05


def verdict(found: Interactions) -> str:
    """One or two sentences: whether fusion can pay, and which kind.

    >>> from equifuse.information import Interactions
    >>> verdict(Interactions("predictive", 100, 1.0, {"a": 0.5, "b": 0.0}, [], 0.5, evidence=0.5))
    'a alone says all that is found (0.50 of 1.00 bits): there is nothing for fusion to add.'

    Args:
        found: the result but for its verdict.
    """
    best = max(found.modalities, key=lambda m: found.modalities[m])
    alone = found.modalities[best]
    least = max(_NOTHING, _LITTLE * found.target_entropy, found.baseline or 0.0)
    together = max(found.joint, found.evidence or 0.0)
    if together < least:
        return (
            f"Nothing is found that tells the target ({together:.2f} of {found.target_entropy:.2f} bits): neither one "
            "modality nor fusion will predict it."
        )
    strongest = max(found.pairs, key=lambda pair: _interaction(pair, least), default=None)
    said = ""
    if strongest is not None and _interaction(strongest, least) > 0:
        said = (
            f"{strongest.a} and {strongest.b} interact: {_interaction(strongest, least):.2f} bits are in neither alone "
            "nor in both asked one by one: fuse early, with a method that sees both (gmf, deq)."
        )
    elif together - alone < least:
        said = (
            f"{best} alone says all that is found ({alone:.2f} of {found.target_entropy:.2f} bits): there is nothing "
            "for fusion to add."
        )
    elif found.joint - (found.evidence or 0.0) >= least and found.evidence is not None:
        said = (
            f"All together say {found.joint:.2f} bits, {best} alone {alone:.2f}, each asked alone "
            f"{found.evidence:.2f}: fusion can pay, and methods that see all at once may gain more than late fusion."
        )
    else:
        said = (
            f"All together say {together:.2f} bits, {best} alone {alone:.2f}: the modalities add evidence and hardly "
            "interact, so fusion can pay and late fusion will do."
        )
    return " ".join(filter(None, [said, _sharing(found, strongest)]))


def _interaction(pair: Pair, least: float) -> float:
    """Bits of a pair that are in neither alone nor in both asked one by one; 0 where chance may have made them."""
    if pair.evidence is None:
        return 0.0
    sure = pair.intervals.get("interaction", (pair.interaction, pair.interaction))[0] > least / 2
    return pair.interaction if sure and pair.interaction >= max(least, _SOME * pair.joint) else 0.0


def _sharing(found: Interactions, shown: Pair | None) -> str:
    """How much of what two modalities say is the same, of the pair that shares most."""
    pairs = [pair for pair in found.pairs if pair.joint > _NOTHING]
    if not pairs:
        return ""
    pair = max(pairs, key=lambda pair: pair.redundancy)
    if pair.redundancy < max(_NOTHING, 0.1 * pair.joint):
        return ""
    only = "" if pair is shown and pair.synergy < _NOTHING else f", {pair.synergy:.2f} bits need both"
    return f"{pair.a} and {pair.b} share {pair.redundancy:.2f} of their {pair.joint:.2f} bits{only}."
