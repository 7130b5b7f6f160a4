"""The evaluations of the maps on a solver's memory, as a recording uses them: of other tensors, later."""

import pytest
import torch

import equifuse as ef
from equifuse.fusion.base import flatten

COUNT, DIM = 5, 16


def maps(seed):
    """The maps of a batch with a modality missing in some rows, whole and of some rows."""
    torch.manual_seed(seed)
    fusion = ef.DEQFusion({"a": DIM, "b": DIM}, DIM, projection=False)
    inputs = {m: torch.randn(COUNT, DIM) for m in "ab"}
    _, rows = flatten(inputs, {"b": torch.tensor([True, False, True, True, False])}, fusion.dims)
    problem = fusion._problem(rows)
    modality, joint = fusion._modality_map(problem), fusion._fusion_map(torch.randn(2, COUNT, DIM), problem)
    some = torch.tensor([[0, 1, 7], [0, 7, 8]][seed])  # as many rows, in other places
    return [modality, modality.select(some), joint, joint.select(some[:1])]


def run(evaluation, z):
    out, ahead = torch.empty_like(z), torch.empty_like(z)
    evaluation.prepare(z, out, ahead if evaluation.looks_ahead else out, None)()
    return out


@pytest.mark.parametrize("which", range(4))
@torch.no_grad()
def test_an_evaluation_of_other_tensors_is_the_other_evaluation(which):
    one, other = maps(0)[which], maps(1)[which]
    torch.manual_seed(2)
    z = torch.randn(len(one.start()), DIM)
    before, after = (f.evaluation(z) for f in (one, other))
    assert before.key == after.key
    torch.testing.assert_close(run(before.with_tensors(after.tensors), z), other(z), rtol=1e-4, atol=1e-5)
    saved = [f.linearize(z).saved for f in (one, other)]
    before, after = one.adjoint(saved[0], z), other.adjoint(saved[1], z)
    assert before.key == after.key
    expected = other.transposed(saved[1], z) + z
    torch.testing.assert_close(run(before.with_tensors(after.tensors), z), expected, rtol=1e-4, atol=1e-5)
