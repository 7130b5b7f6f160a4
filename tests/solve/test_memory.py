"""The memory of an iteration: slots against plain tensors, and temporaries that are used again."""

import pytest
import torch

import equifuse as ef
from equifuse.solve.history import Slots
from equifuse.solve.workspace import _POOL, Workspace, release_idle_memory

LARGE = (300, 400)  # numbers enough to be kept


@pytest.mark.parametrize("recording", [True, False])
def test_slots_are_a_stack_of_vectors(recording):
    with torch.set_grad_enabled(recording):
        x = torch.randn(5, 7, dtype=torch.float64)
        slots, plain = Slots(x, 20), []
        for j in range(20):  # more than there is room for at first
            a, b, factor = torch.randn(5, 7).double(), torch.randn(5, 7).double(), torch.randn(5, 1).double()
            value, put = [
                (a, lambda a=a, j=j: slots.put(j, a)),
                (a - b, lambda a=a, b=b, j=j: slots.put_difference(j, a, b)),
                (a * factor, lambda a=a, f=factor, j=j: slots.put_scaled(j, a, f)),
            ][j % 3]
            put()
            plain.append(value)
        stack = torch.stack(plain, dim=1)
        weights = torch.randn(5, 20, dtype=torch.float64)
        first, second = slots.dots(x, 2 * x)
        torch.testing.assert_close(first, torch.einsum("bjn,bn->bj", stack, x))
        torch.testing.assert_close(second, 2 * first)
        expected = x - torch.einsum("bjn,bj->bn", stack, weights)
        before = x.clone()
        torch.testing.assert_close(slots.add_to(x, weights, -1.0), expected)
        assert torch.equal(x, before)
        torch.testing.assert_close(
            slots.add_to(x.clone(), weights[:, :3]), x + (stack * weights[:, :, None])[:, :3].sum(1)
        )
        rows = torch.tensor([1, 4])
        slots.keep(rows)
        torch.testing.assert_close(slots.dots(x[rows])[0], first[rows])
        slots.clear(torch.tensor([True, False]))
        assert float(slots.dots(x[rows])[0][0].abs().max()) == 0
        torch.testing.assert_close(slots.dots(x[rows])[0][1], first[4])


def test_slots_hold_what_was_put_last_in_place_and_on_a_tape():
    with torch.no_grad():
        slots = Slots(torch.zeros(2, 3), 2)
        value = torch.ones(2, 3)
        slots.put(0, value)
        value.fill_(5)
        assert float(slots[0].max()) == 1  # a copy
    leaf = torch.ones(2, 3, requires_grad=True)
    slots = Slots(leaf, 2)
    slots.put(0, leaf * 2)
    slots.put(0, leaf * 3)
    (grad,) = torch.autograd.grad(slots.dots(torch.ones(2, 3))[0].sum(), leaf)
    assert torch.equal(grad, torch.full((2, 3), 3.0))


def test_a_temporary_is_used_again_but_never_twice_at_a_time():
    release_idle_memory()
    like = torch.zeros(LARGE)
    with Workspace() as first:
        a, b = first.empty(like), first.empty(like)
        assert a.data_ptr() != b.data_ptr()
        a.fill_(1)
        b.fill_(2)
        assert float(a.max()) == 1
        places = {a.data_ptr(), b.data_ptr()}
    with Workspace() as second:
        c, d, e = second.empty(like), second.empty(like, 250, 300), second.empty(like)
        assert {c.data_ptr(), d.data_ptr()} == places
        assert e.data_ptr() not in places
        assert d.shape == (250, 300)
        assert second.empty(like.double()).dtype == torch.float64
    assert len(_POOL.idle) == 4
    release_idle_memory()
    assert _POOL.idle == []


def test_small_ones_are_left_to_the_allocator_and_what_lies_idle_is_bounded():
    release_idle_memory()
    with Workspace() as workspace:
        workspace.empty(torch.zeros(4, 4))
    assert _POOL.idle == []
    _POOL.give_back([torch.empty(2**25) for _ in range(5)])  # 128 MiB each, never touched
    assert len(_POOL.idle) == 4
    release_idle_memory()


def test_a_solve_gives_back_what_it_borrowed_and_results_are_not_in_it():
    release_idle_memory()
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 256, "b": 256}, 256, projection=False)
    x = {m: torch.randn(300, 256) for m in fusion.dims}

    def step():
        out = fusion(x)
        return out, torch.autograd.grad(out.fused.square().sum(), list(fusion.parameters()))

    out, grads = step()
    idle = len(_POOL.idle)
    assert idle > 0
    kept = out.fused.clone(), [g.clone() for g in grads]
    for _ in range(3):
        step()
    assert len(_POOL.idle) == idle
    assert torch.equal(out.fused, kept[0])
    for a, b in zip(grads, kept[1], strict=True):
        assert torch.equal(a, b)
    release_idle_memory()
