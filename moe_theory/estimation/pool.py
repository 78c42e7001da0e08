"""Many lanes, few of them at work: blocks of fixed shape whose finished lanes are replaced by waiting ones.

A vmapped loop runs until its slowest lane. Here a block of lanes advances one iteration at a time; finished lanes
leave, waiting ones take their places, and the compiled shape never changes. A lane's path does not depend on
its neighbours. Every local device holds a block of its own and all advance at once; no lane talks to another, so the
same code serves one CPU, one GPU or several.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from moe_theory.estimation.smooth import AbstractProblem
from moe_theory.estimation.trust_region import (
    CONVERGED,
    FIRST_RADIUS,
    ITERATION_LIMIT,
    RUNNING,
    Standpoint,
    State,
    centred,
    initial_state,
    move,
    standpoint,
)
from moe_theory.jitting import jitted

LONGEST = 320
"""Iterations after which a lane is given up, unless it may yet be its replication's best..."""

LAST_CHANCE = 10
"""...which is given up after this many times as many. The longest fit of 256 replications of `dora-over` took 471."""

DOMINATED = 4
"""Status of a lane that was stopped because another start of the same data is, in all likelihood, to stay lower.

Along a curved valley F may fall by more than any multiple of the decrement. In 48 replications of five systems (DoRA,
DoRAN, HoRA, LoRA, multi-head LoRA, 13 starts each) that were also run without this rule, it cost two of them a lower
minimum, by 0.007 and by 1.9 units of F; it saved 10 to 40 % of the iterations. To stop, in addition, lanes that fell
by less than half of what they lacked in eight iterations, and lacked three decrements, saved another 10 % (DoRA: 30),
and cost 40 of 256 replications of DoRA a lower minimum, by up to 4.5 units."""

FEWEST = 8
"""Iterations that every lane is granted."""

DOMINATED_MARGIN = 0.3
"""A lane near a minimum of its own is stopped when a converged lane of its replication is lower by this much..."""

DOMINATED_DECREMENTS = 50.0
"""...plus this many of its own Newton decrements (units of sigma^2 / n)."""


class Lane(NamedTuple):
    """One start of one replication.

    Attributes:
        owner: number of the replication, which lanes compete in.
        data: what its problem is made of beside the shared part, such as sufficient statistics.
        z: the start.
    """

    owner: int
    data: Any
    z: np.ndarray


class Finished(NamedTuple):
    """A lane's end: its position in the order of submission, and its state (numpy scalars and vectors)."""

    order: int
    owner: int
    state: State


class Programs(NamedTuple):
    """The compiled parts of lanes of one kind of problem; each takes (what all lanes share, their data, ...).

    An iteration is two of them, ``move`` after ``stand``, because half of all code is the model's at a point, which
    certificates and searches need as well and would otherwise compile again.

    Attributes:
        begin: starts -> states.
        centre: states -> states, see ``centred``.
        stand: states -> standpoints.
        move: states and their standpoints -> states.
    """

    begin: Any
    centre: Any
    stand: Any
    move: Any


@functools.lru_cache(maxsize=64)
def programs(kind: Callable[..., AbstractProblem], structure: Any) -> Programs:
    """The programs of a kind of problem, shared by all of its pools.

    Args:
        kind: makes a problem.
        structure: of what all lanes share, whose leaves the programs take: modules are taken apart once, not at every
            call, of which an iteration has two.
    """

    def of_lanes(function: Callable[..., Any], arguments: int, **how: bool) -> Any:
        def lane(leaves: list[jax.Array], data: Any, *own: Any) -> Any:
            return function(kind(*jax.tree.unflatten(structure, leaves), data), *own)

        return jitted(jax.vmap(lane, (None, 0) + (0,) * arguments), **how)

    moving = of_lanes(move, 2, summing=True)
    return Programs(of_lanes(initial_state, 1), of_lanes(centred, 1), of_lanes(standpoint, 1), moving)


class _Block:
    """The lanes at work on one device."""

    def __init__(self, device: Any, size: int):
        self.device = device
        self.seats: list[tuple[int, Lane] | None] = [None] * size
        self.data: Any = None
        self.state: State | None = None

    def fill(self, waiting: Iterator[tuple[int, Lane]], begin: Callable[[Any, np.ndarray], State]) -> bool:
        """Seat waiting lanes in free places; whether anyone is seated at all."""
        fresh = np.zeros(len(self.seats), bool)
        for place, seat in enumerate(self.seats):
            if seat is None and (arrival := next(waiting, None)) is not None:
                self.seats[place], fresh[place] = arrival, True
        occupied = [seat for seat in self.seats if seat is not None]
        if fresh.any():
            filler = occupied[0][1]
            lanes = [filler if seat is None else seat[1] for seat in self.seats]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[lane.data for lane in lanes])
            self.data, starts = jax.device_put((stacked, np.stack([lane.z for lane in lanes])), self.device)
            begun = begin(self.data, starts)
            self.state = begun if self.state is None else _merged(begun, self.state, fresh)
        return bool(occupied)


class Pool:
    """Runs lanes of one kind of problem.

    Args:
        kind: makes a lane's problem of what all lanes share and of its data, ``kind(*shared, data)``; hashable, and
            equal kinds share their compiled code.
        shared: the same for all lanes, such as a chart and a design.
        lanes: block size on each device.
    """

    def __init__(self, kind: Callable[..., AbstractProblem], shared: tuple[Any, ...], lanes: int = 64):
        self.lanes = lanes
        leaves, structure = jax.tree.flatten(shared)
        self._shared = {device: jax.device_put(leaves, device) for device in jax.local_devices()}
        self._programs = programs(kind, structure)

    def run(self, waiting: Iterator[Lane], longest: int = LONGEST) -> Iterator[Finished]:
        """Yield every lane as it finishes; lanes are taken from the iterator as places fall free.

        Args:
            waiting: the lanes.
            longest: iterations after which one is given up, see ``LONGEST``.
        """
        numbered = enumerate(waiting)
        blocks = [_Block(device, self.lanes) for device in self._shared]
        lowest: dict[int, float] = {}
        while True:
            busy = [block for block in blocks if block.fill(numbered, self._beginner(block.device))]
            if not busy:
                return
            for block in busy:
                assert block.state is not None
                block.state = self._advanced(block.device, block.data, block.state)
            for block in busy:
                yield from _leaving(block, lowest, longest)

    def stand(self, data: Any, states: State) -> Standpoint:
        """The standpoints of a block's worth of ``centred`` lanes, by the compiled code that takes steps."""
        device, shared = next(iter(self._shared.items()))
        data, states = jax.device_put((data, states), device)
        return self._programs.stand(shared, data, self._programs.centre(shared, data, states))

    def resume(self, data: Any, states: State, longest: int = LONGEST) -> State:
        """Take lanes up again where they ended, as wide as a start and blind to how they came there.

        Args:
            data, states: of any number of lanes; the states ``centred``.
            longest: iterations after which a lane is given up.

        Returns:
            Their ends; iterations add up.
        """
        device = next(iter(self._shared))
        granted = states.iterations + longest
        waiting = states._replace(
            radius=np.full_like(states.radius, FIRST_RADIUS), status=np.full_like(states.status, RUNNING)
        )

        def advance(own: Any, lanes: State) -> State:
            return self._advanced(device, *jax.device_put((own, lanes), device))  # else they are compiled once more

        ended: State = until_settled(
            advance,
            lambda lanes: (lanes.status == RUNNING) & (lanes.iterations < granted),
            self.lanes, data, waiting,
        )  # fmt: skip
        return ended._replace(status=np.where(ended.status == RUNNING, ITERATION_LIMIT, ended.status))

    def _beginner(self, device: Any) -> Callable[[Any, np.ndarray], State]:
        return lambda data, starts: _waited(device, self._programs.begin(self._shared[device], data, starts))

    def _advanced(self, device: Any, data: Any, state: State) -> State:
        shared = self._shared[device]
        return _waited(device, self._programs.move(shared, data, state, self._programs.stand(shared, data, state)))


def _waited(device: Any, state: State) -> State:
    """What a program was started for on a device. Host devices share one pool of threads, in which two programs at
    once can wait for each other for ever, so there each is waited for; accelerators work side by side."""
    return jax.block_until_ready(state) if device.platform == "cpu" else state


def _leaving(block: _Block, lowest: dict[int, float], longest: int) -> Iterator[Finished]:
    """Free the places of finished lanes; ``lowest`` holds each replication's least converged objective."""
    host: State = jax.tree.map(np.asarray, block.state)
    status = host.status.copy()
    for place, seat in enumerate(block.seats):
        if seat is not None and status[place] == CONVERGED:
            lowest[seat[1].owner] = min(lowest.get(seat[1].owner, np.inf), float(host.value[place]))
    for place, seat in enumerate(block.seats):
        if seat is None:
            continue
        index, lane = seat
        hopeless = lowest.get(lane.owner, np.inf) + DOMINATED_MARGIN + DOMINATED_DECREMENTS * host.decrement[place]
        if status[place] == RUNNING and host.iterations[place] > FEWEST and host.value[place] > hopeless:
            status[place] = DOMINATED
        granted = longest * (LAST_CHANCE if host.value[place] < lowest.get(lane.owner, np.inf) else 1)
        if status[place] == RUNNING and host.iterations[place] >= granted:
            status[place] = ITERATION_LIMIT
        if status[place] != RUNNING:
            block.seats[place] = None
            own = jax.tree.map(lambda leaf, at=place: leaf[at].copy(), host)
            yield Finished(index, lane.owner, own._replace(status=status[place]))


@jax.jit
def _merged(new: State, old: State, fresh: Bool[Array, " lanes"]) -> State:
    def pick(begun: jax.Array, running: jax.Array) -> jax.Array:
        return jnp.where(fresh.reshape((-1,) + (1,) * (begun.ndim - 1)), begun, running)

    return jax.tree.map(pick, new, old)


def until_settled(
    advance: Callable[[Any, Any], Any], running: Callable[[Any], Any], size: int, fixed: Any, lanes: Any
) -> Any:
    """Advance lanes in blocks of one shape until none is running; in a block, others take the places of those that end.

    Args:
        advance: (fixed, lanes) of a block -> lanes after some steps.
        running: lanes -> which of them are to be advanced again.
        size: of a block, filled up with repetitions.
        fixed, lanes: arrays with a leading axis over all lanes, what a lane keeps and what advances.
    """
    lanes = jax.tree.map(np.array, lanes)
    while (left := np.flatnonzero(running(lanes))).size:
        place = np.resize(left[:size], size)
        moved = advance(*jax.tree.map(lambda leaf, at=place: leaf[at], (fixed, lanes)))
        for leaf, new in zip(jax.tree.leaves(lanes), jax.tree.leaves(moved), strict=True):
            leaf[place] = np.asarray(new)
    return lanes
