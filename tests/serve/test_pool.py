"""Workers that are slow, die or cannot start; requests that come together."""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="needs equifuse[serve]")

from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.messages import Job, Question, parts
from equifuse.serve.pool import Pool, StartError, _Waiting

QUICK = (sys.executable, str(Path(__file__).with_name("quick_worker.py")))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "generation").write_text("1")
    return tmp_path


@asynccontextmanager
async def pool_of(folder, workers=1, **limits):
    pool = Pool({"m": str(folder)}, True, Limits(**limits), workers, QUICK)
    await pool.start()
    try:
        await pool.first()
        yield pool
    finally:
        await pool.close()


async def ask(pool, body, kind="predict"):
    """What is answered, or the status of the refusal."""
    try:
        answer, _ = await pool.ask("m", Question(kind, body.encode(), ""))
    except Refusal as refusal:
        return refusal.status
    return answer.content.decode()


def test_a_worker_that_says_what_is_no_answer_is_replaced(folder):
    """One that was taken over by what it read, say: its request is lost, and the next one is answered."""

    async def main():
        async with pool_of(folder) as pool:
            assert await ask(pool, "rave") == 503
            assert await ask(pool, "echo") == "echo"

    asyncio.run(main())


def test_a_worker_that_takes_too_long_is_replaced(folder):
    async def main():
        async with pool_of(folder, timeout=0.5) as pool:
            before = await ask(pool, "pid")
            start = time.perf_counter()
            assert await ask(pool, "sleep 60") == 504
            assert time.perf_counter() - start < 5
            for _ in range(20):  # the next one takes a moment to start
                if (after := await ask(pool, "pid")) != 503:
                    break
            assert after != before
            assert pool.count() == 1

    asyncio.run(main())


def test_a_worker_that_dies_loses_one_request(folder):
    async def main():
        async with pool_of(folder, timeout=20) as pool:
            # The second to the sixth come together while the first is worked on; one of them ends the worker.
            words = ["sleep 0.2", "a", "b", "die", "c", "d"]
            assert await asyncio.gather(*(ask(pool, word) for word in words)) == ["sleep 0.2", "a", "b", 503, "c", "d"]

    asyncio.run(main())


def test_requests_that_wait_are_answered_together(folder):
    async def main():
        async with pool_of(folder) as pool:
            alone = [ask(pool, "together", "explain") for _ in range(3)]
            found = await asyncio.gather(*(ask(pool, "together") for _ in range(8)), *alone)
            assert found == ["8"] * 8 + ["1"] * 3

    asyncio.run(main())


def test_too_many_are_refused_and_the_others_answered(folder):
    async def main():
        async with pool_of(folder, max_waiting=3) as pool:
            found = await asyncio.gather(*(ask(pool, "sleep 0.1") for _ in range(5)))
            assert found == ["sleep 0.1"] * 3 + [503] * 2
            assert await ask(pool, "x") == "x"

    asyncio.run(main())


def test_who_waits_too_long_is_told(folder):
    async def main():
        async with pool_of(folder, timeout=0.4) as pool:
            first = asyncio.create_task(ask(pool, "sleep 0.3", "explain"))
            second = asyncio.create_task(ask(pool, "sleep 0.3", "explain"))
            third = asyncio.create_task(ask(pool, "x", "explain"))
            assert await asyncio.gather(first, second, third) == ["sleep 0.3", "sleep 0.3", 503]

    asyncio.run(main())


def test_a_run_that_is_not_there_ends_the_start(tmp_path):
    async def main():
        pool = Pool({"m": str(tmp_path / "none")}, True, Limits(), 1, QUICK)
        await pool.start()
        with pytest.raises(StartError, match="no run at"):
            await pool.first()
        await pool.close()

    asyncio.run(main())


def test_models_are_read_again_without_a_pause(folder):
    async def main():
        async with pool_of(folder, workers=2) as pool:
            before = {await ask(pool, "pid") for _ in range(4)}
            (folder / "generation").write_text("2")
            asked = [asyncio.create_task(ask(pool, "sleep 0.01")) for _ in range(40)]
            await pool.reload()
            assert set(await asyncio.gather(*asked)) == {"sleep 0.01"}
            assert pool.loaded.versions == {"generation": "2"}
            assert await ask(pool, "pid") not in before
            # What cannot be read changes nothing.
            (folder / "generation").unlink()
            with pytest.raises(StartError):
                await pool.reload()
            assert await ask(pool, "x") == "x"

    asyncio.run(main())


def test_a_body_is_neither_copied_nor_written_out_on_its_way_to_a_worker(folder):
    """Either takes long enough for others to wait."""
    pieces = [b"echo ", b"x" * 1000, b"y" * 1000]
    question = Question("predict", pieces, "")
    frame, *rest = parts(Job("m", [question]))
    assert len(frame) < 200
    assert all(a is b for a, b in zip(rest, pieces, strict=True))

    async def main():
        waiting = _Waiting("m", question, asyncio.get_running_loop().create_future(), True)
        assert "xxx" not in repr(waiting)
        async with pool_of(folder) as pool:
            answer, _ = await pool.ask("m", question)
            assert answer.content == b"".join(pieces)

    asyncio.run(main())
