"""Runs a simulated cluster (simulation.py): trouble for a while, then calm until it is whole."""

import asyncio
import tempfile
from collections.abc import Callable

from pulzar.testing.simulation import World
from pulzar.testing.virtual_time import run

CALM_S = 40.0


def simulate(
    seed: int,
    *,
    seconds: float = 60.0,
    clients: int = 4,
    volumes: int = 3,
    replicas: int = 2,
    change: bool = False,
) -> World:
    """Run one simulation: trouble, then calm, then a last read of every key. The world has the
    history, and what should never be seen. `change`: members come and go."""
    with tempfile.TemporaryDirectory(prefix="pulzar-simulation-") as directory:

        async def main() -> World:
            world = World(seed, directory, volumes=volumes, replicas=replicas, change=change)
            await world.start_master()
            for machine in world.machines.values():
                machine.start()
            beating = asyncio.ensure_future(world.beat())
            await _until(lambda: _is_whole(world))
            busy = [asyncio.ensure_future(world.client(number)) for number in range(clients)]
            await world.trouble(seconds)
            if world.store is None:
                await world.start_master()
            for machine in world.machines.values():
                if machine.served is None:
                    machine.start()
            await _until(lambda: _is_whole(world))
            await asyncio.sleep(CALM_S)
            for task in (beating, *busy):
                if task is not beating:
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled() and task.exception() is not None:
                        raise AssertionError("a client met a bug") from task.exception()
            await _until(lambda: _is_redundant(world, replicas))
            beating.cancel()
            await world.end()
            return world

        return run(main())


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(1500):
        if holds():
            return
        await asyncio.sleep(0.2)
    raise TimeoutError("it did not come to rest in five minutes")


def _is_whole(world: World) -> bool:
    store = world.store
    return (
        store is not None
        and store.not_ready() is None
        and all(member.online for member in store.members.values())
        and (any(world.changes.values()) or len(store.members) == len(world.machines))
    )


def _is_redundant(world: World, copies: int) -> bool:
    store = world.store
    if store is None:
        return False
    places = sum(not member.draining for member in store.members.values())
    return store.repair.redundancy().least >= min(copies, places)
