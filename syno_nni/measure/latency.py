"""Latency of a model against its baseline: interleaved, warmed up, medians with spread, and a flag for noise.

A machine's speed drifts (other processes, frequency, temperature) by more than the differences a search looks for.
So candidate and baseline take turns within every round, and the speedup is the median of the rounds' ratios: a drift
that lasts longer than a round cancels out of it.
"""
from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

from .lock import measurement_lock

NOISY_SPREAD = 0.2
"""Interquartile range over median above which a measurement calls itself noisy."""
_SHORTEST_MS = 1.0
# One timing covers at least this many milliseconds: far above the resolution and cost of the clock.


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call: the median of ``rounds`` timings and their quartiles."""
    median_ms: float
    low_ms: float
    high_ms: float
    rounds: int

    @classmethod
    def of(cls, timings_ms: Sequence[float]) -> Latency:
        """The summary of several timings in milliseconds."""
        low, median, high = (float(q) for q in np.percentile(timings_ms, (25, 50, 75)))
        return cls(median, low, high, len(timings_ms))

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        return (self.high_ms - self.low_ms) / self.median_ms


@dataclass(frozen=True)
class PairLatency:
    """A candidate and its baseline, measured in turns.

    ``speedup`` is the median over rounds of baseline time / candidate time (above 1: the candidate is faster);
    ``speedup_low`` and ``speedup_high`` are its quartiles.
    """
    candidate: Latency
    baseline: Latency
    speedup: float
    speedup_low: float
    speedup_high: float
    noisy: bool
    runtime: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able data."""
        return asdict(self)


def measure_pair(candidate: nn.Module, baseline: nn.Module, example: Tensor, *, threads: int | None = None,
                 warmup: int = 5, min_rounds: int = 15, max_rounds: int = 200, seconds: float = 2.0) -> PairLatency:
    """Time two models on one input in turns, without gradients, in evaluation mode, in torch's eager runtime.

    Args:
        candidate, baseline: modules; put into evaluation mode for the time of the call.
        example: the input of both, such as (1, 3, 224, 224).
        threads: torch threads for both; None leaves the setting alone.
        warmup: untimed calls of each.
        min_rounds, max_rounds: bounds on the number of rounds; within them the measurement takes about ``seconds``.
        seconds: wanted duration.

    Raises:
        MeasureError: a model does not run on the example, or returns something that is not finite.
    """
    if not 1 <= min_rounds <= max_rounds:
        raise MeasureError(f'1 <= min_rounds <= max_rounds must hold, got {min_rounds=}, {max_rounds=}')
    with measurement_lock(), _threads(threads), _evaluating(candidate, baseline), torch.inference_mode():
        calls = [_prepared(m, example, warmup, name) for m, name in ((candidate, 'candidate'), (baseline, 'baseline'))]
        repeats = [_repeats(call) for call in calls]
        timings: tuple[list[float], list[float]] = ([], [])
        started = time.perf_counter()
        with _no_garbage_collection():
            for n in range(max_rounds):
                if n >= min_rounds and time.perf_counter() - started > seconds:
                    break
                # Each goes first in every other round: the first one pays for what happened in between.
                for i in (0, 1) if n % 2 == 0 else (1, 0):
                    timings[i].append(_time_ms(calls[i], repeats[i]))
        used = torch.get_num_threads()
    ratios = np.asarray(timings[1]) / np.asarray(timings[0])
    low, median, high = (float(q) for q in np.percentile(ratios, (25, 50, 75)))
    results = [Latency.of(t) for t in timings]
    noisy = (high - low) / median > NOISY_SPREAD or any(r.spread > NOISY_SPREAD for r in results)
    return PairLatency(*results, speedup=median, speedup_low=low, speedup_high=high, noisy=noisy, runtime='eager',
                       threads=used)


def measure(model: nn.Module, example: Tensor, **options: Any) -> Latency:
    """Latency of one model; options as for :func:`measure_pair`."""
    return measure_pair(model, model, example, **options).candidate


def _prepared(model: nn.Module, example: Tensor, warmup: int, name: str) -> Callable[[], Any]:
    """A warmed-up call of the model."""
    try:
        output = model(example)
        for _ in range(warmup - 1):
            model(example)
    except Exception as error:
        raise MeasureError(f'the {name} does not run on an input of shape {tuple(example.shape)}: '
                           f'{type(error).__name__}: {error}') from error
    if isinstance(output, Tensor) and not torch.isfinite(output).all():
        raise MeasureError(f'the {name} returns values that are not finite; its latency would mean nothing')
    return lambda: model(example)


def _repeats(call: Callable[[], Any]) -> int:
    return max(1, math.ceil(_SHORTEST_MS / max(_time_ms(call, 1), 1e-4)))


def _time_ms(call: Callable[[], Any], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) * 1e3 / repeats


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
