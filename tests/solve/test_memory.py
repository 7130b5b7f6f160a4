"""The memory of an iteration: slots against plain tensors, and temporaries that are used again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import equifuse as ef
from equifuse.solve.history import Slots
from equifuse.solve.recycling import copy, empty, idle_bytes, release_idle_memory, select, spare

LARGE = (300, 400)  # numbers enough to be kept


@pytest.mark.parametrize("recording", [True, False])
def test_slots_are_a_stack_of_vectors(recording):
    with torch.set_grad_enabled(recording):
        x = torch.randn(5, 7, dtype=torch.float64)
        slots, plain = Slots(x, 20), []
        for j in range(20):  # more than there is room for at first
            a, b, factor = torch.randn(5, 7).double(), torch.randn(5, 7).double(), torch.randn(5, 1).double()
            value, scatter = [
                (a, lambda a=a, j=j: slots.store(j, a)),
                (a - b, lambda a=a, b=b, j=j: slots.store_difference(j, a, b)),
                (a * factor, lambda a=a, f=factor, j=j: slots.store_scaled(j, a, f)),
            ][j % 3]
            scatter()
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
        slots.select(rows)
        torch.testing.assert_close(slots.dots(x[rows])[0], first[rows])
        slots.clear(torch.tensor([True, False]))
        assert float(slots.dots(x[rows])[0][0].abs().max()) == 0
        torch.testing.assert_close(slots.dots(x[rows])[0][1], first[4])


def test_slots_hold_what_was_put_last_in_place_and_on_a_tape():
    with torch.no_grad():
        slots = Slots(torch.zeros(2, 3), 2)
        value = torch.ones(2, 3)
        slots.store(0, value)
        value.fill_(5)
        assert float(slots[0].max()) == 1  # a copy
    leaf = torch.ones(2, 3, requires_grad=True)
    slots = Slots(leaf, 2)
    slots.store(0, leaf * 2)
    slots.store(0, leaf * 3)
    (grad,) = torch.autograd.grad(slots.dots(torch.ones(2, 3))[0].sum(), leaf)
    assert torch.equal(grad, torch.full((2, 3), 3.0))


def test_memory_is_used_again_once_no_tensor_shares_it():
    release_idle_memory()
    like = torch.zeros(LARGE)
    a, b = empty(like), empty(like)
    assert a.data_ptr() != b.data_ptr()
    assert a.data_ptr() % 64 == 0
    a.fill_(1)
    b.fill_(2)
    assert float(a.max()) == 1
    place, view = a.data_ptr(), a[:, 5:]
    del a
    assert idle_bytes() == 0
    assert empty(like).data_ptr() != place  # still in use by the view
    assert float(view.max()) == 1
    held = idle_bytes()
    del view
    assert idle_bytes() > held
    places = {empty(like).data_ptr() for _ in range(3)}
    assert place in places
    release_idle_memory()
    assert idle_bytes() == 0


def test_recycled_tensors_are_like_any_other(tmp_path):
    like = torch.zeros(LARGE)
    x = empty(like.to(torch.bfloat16), 250, 300).fill_(3)
    assert (x.shape, x.dtype) == ((250, 300), torch.bfloat16)
    assert empty(like.double()).dtype == torch.float64
    torch.save(x, tmp_path / "x.pt")
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True), x)
    y = copy(like + 2).requires_grad_()
    (y * y).sum().backward()
    assert float(y.grad.max()) == 4
    rows = torch.tensor([0, 7])
    with torch.no_grad():
        assert torch.equal(select(y, rows), y[rows])
    assert select(y, rows).requires_grad
    assert spare(y) is None  # while a graph is recorded


def test_small_ones_are_left_to_the_allocator_and_what_lies_idle_is_bounded():
    release_idle_memory()
    x = empty(torch.zeros(4, 4))
    del x
    assert idle_bytes() == 0
    large = [empty(torch.zeros(()), 2**25) for _ in range(6)]  # 128 MiB each, never touched
    assert len({x.data_ptr() for x in large}) == 6
    del large
    assert 0 < idle_bytes() <= 2**29
    release_idle_memory()


def test_threads_share_the_memory_but_no_block_at_a_time():
    like = torch.zeros(LARGE)

    def work(value):
        for _ in range(200):
            a, b = empty(like).fill_(value), empty(like).fill_(-value)
            assert float(a.min()) == float(a.max()) == value
            assert float(b.min()) == float(b.max()) == -value
        return value

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(1, 5))) == [1, 2, 3, 4]
    release_idle_memory()


def test_solves_go_round_in_the_same_memory_and_results_stay_as_they_are():
    release_idle_memory()
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 256, "b": 256}, 256, projection=False)
    x = {m: torch.randn(300, 256) for m in fusion.dims}

    def step():
        out = fusion(x)
        return out, torch.autograd.grad(out.fused.square().sum(), list(fusion.parameters()))

    out, grads = step()
    kept = out.fused.clone(), [g.clone() for g in grads]
    step()
    idle = idle_bytes()
    assert idle > 0
    for _ in range(3):
        step()
    assert idle_bytes() == idle
    assert torch.equal(out.fused, kept[0])
    for a, b in zip(grads, kept[1], strict=True):
        assert torch.equal(a, b)
    release_idle_memory()
