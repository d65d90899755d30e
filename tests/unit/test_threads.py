"""Work in a thread: who is cancelled waits for its end."""

import asyncio
import threading

import pytest

from pulzar.threads import to_its_end


def test_who_is_cancelled_waits_until_the_thread_is_done() -> None:
    async def life() -> None:
        may_end, begun, ended = threading.Event(), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            loop.call_soon_threadsafe(begun.set)
            may_end.wait(20)
            ended.set()

        task = asyncio.ensure_future(to_its_end(work))
        await begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        may_end.set()
        await asyncio.wait([task])
        assert ended.is_set()
        assert task.cancelled()

    asyncio.run(life())


def test_what_the_work_gives_or_raises() -> None:
    def breaks() -> int:
        raise OSError(5, "broken")

    assert asyncio.run(to_its_end(lambda: 7)) == 7
    with pytest.raises(OSError, match="broken"):
        asyncio.run(to_its_end(breaks))
