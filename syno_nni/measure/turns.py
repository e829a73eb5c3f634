"""Timing several calls in turns; needs nothing but the standard library, so any runtime's process can use it."""
from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SHORTEST_MS = 1.0
# One timing covers at least this many milliseconds: far above the resolution and cost of the clock.

Call = Callable[[], object]


def take_turns(calls: Sequence[Call], *, warmup: int, min_rounds: int, max_rounds: int,
               seconds: float) -> list[list[float]]:
    """Milliseconds per call, one list for each of ``calls``, all of one length.

    Every round times every call. Who goes first rotates, because the first one pays for what happened in between; the
    others follow in an order drawn anew, because each pays for what the one before it has left in the caches.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    repeats = [max(1, math.ceil(SHORTEST_MS / max(time_ms(call, 1), 1e-4))) for call in calls]
    timings: list[list[float]] = [[] for _ in calls]
    shuffle = random.Random(0).shuffle
    started = time.perf_counter()
    with _no_garbage_collection():
        for n in range(max_rounds):
            if n >= min_rounds and time.perf_counter() - started > seconds:
                break
            first = n % len(calls)
            others = [i for i in range(len(calls)) if i != first]
            shuffle(others)
            for i in (first, *others):
                timings[i].append(time_ms(calls[i], repeats[i]))
    return timings


def time_ms(call: Call, repeats: int) -> float:
    """Milliseconds per call over some repeats."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) * 1e3 / repeats


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
