"""Latency of a model against its baseline: interleaved, warmed up, medians with spread, and a flag for noise.

A machine's speed drifts (other processes, frequency, temperature) by more than the differences a search looks for.
So candidate and baseline take turns within every round, and the speedup is the median of the rounds' ratios: a drift
that lasts longer than a round cancels out of it.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError
from syno_nni.modes import evaluating
from syno_nni.nested import tensors

from .lock import measurement_lock
from .runtime import Rounds, as_array
from .runtimes import time_in
from .threads import torch_threads

NOISY_SPREAD = 0.2
"""Interquartile range over median above which a measurement calls itself noisy."""
TOLERANCE = 1e-3
"""Relative error above which a runtime computes something else than eager torch; four roundings of 16-bit outputs."""


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
    ``speedup_low`` and ``speedup_high`` are its quartiles. The median would be above ``speedup_sure`` in 19 of 20
    repetitions: the more rounds and the quieter the machine, the nearer it is to ``speedup``.
    """
    candidate: Latency
    baseline: Latency
    speedup: float
    speedup_sure: float
    speedup_low: float
    speedup_high: float
    noisy: bool
    runtime: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able data."""
        return asdict(self)


def measure_pair(candidate: nn.Module, baseline: nn.Module, example: Tensor, *, threads: int | None = None,
                 warmup: int = 5, min_rounds: int = 15, max_rounds: int = 200, seconds: float = 2.0,
                 runtime: str = 'eager') -> PairLatency:
    """Time two models on one input in turns, without gradients, in evaluation mode, in one runtime.

    Args:
        candidate, baseline: modules; put into evaluation mode for the time of the call.
        example: the input of both, such as (1, 3, 224, 224).
        threads: threads for both; None for as many as torch uses now.
        warmup: untimed calls of each.
        min_rounds, max_rounds: bounds on the number of rounds; within them the measurement takes about ``seconds``.
        seconds: wanted duration.
        runtime: one of `syno_nni.measure.RUNTIMES`. Outside eager torch all outputs are checked against it.

    Raises:
        MeasureError: the example is no tensor; a model does not run on it, returns something that is not finite, or
            something else in the runtime than in eager torch.
    """
    if not isinstance(example, Tensor):
        raise MeasureError(f'models are measured on one tensor, got {type(example).__name__}: wrap a model with several '
                           'inputs in a module that takes one')
    if not 1 <= min_rounds <= max_rounds:
        raise MeasureError(f'1 <= min_rounds <= max_rounds must hold, got {min_rounds=}, {max_rounds=}')
    models = {'candidate': candidate, 'baseline': baseline}
    with measurement_lock(), torch_threads(threads), evaluating(*models.values()):
        used = torch.get_num_threads()
        expected = [_outputs(model, example, name) for name, model in models.items()]
        timed = time_in(runtime, list(models.values()), example, threads=used,
                        rounds=Rounds(warmup, min_rounds, max_rounds, seconds))
    for name, want, got in zip(models, expected, timed.outputs, strict=True):
        _compare(want, got, name, runtime)
    ratios = np.asarray(timed.timings_ms[1]) / np.asarray(timed.timings_ms[0])
    low, median, high = (float(q) for q in np.percentile(ratios, (25, 50, 75)))
    first, second = (Latency.of(t) for t in timed.timings_ms)
    noisy = (high - low) / median > NOISY_SPREAD or max(first.spread, second.spread) > NOISY_SPREAD
    return PairLatency(candidate=first, baseline=second, speedup=median, speedup_sure=_lower_bound(ratios),
                       speedup_low=low, speedup_high=high, noisy=noisy, runtime=runtime,
                       threads=used)


def _lower_bound(values: np.ndarray) -> float:
    """The one-sided 95 % lower confidence bound of the median, an order statistic (no distribution is assumed)."""
    rank = math.floor((len(values) - 1.645 * math.sqrt(len(values))) / 2)
    return float(np.sort(values)[max(rank, 0)])


def measure(model: nn.Module, example: Tensor, **options: Any) -> Latency:
    """Latency of one model; options as for :func:`measure_pair`."""
    return measure_pair(model, model, example, **options).candidate


def _outputs(model: nn.Module, example: Tensor, name: str) -> list[Tensor]:
    """The tensors that a model returns in eager torch."""
    try:
        with torch.inference_mode():
            outputs = [*tensors(model(example))]
    except Exception as error:
        raise MeasureError(f'the {name} does not run on an input of shape {tuple(example.shape)}: '
                           f'{type(error).__name__}: {error}') from error
    if not all(torch.isfinite(t).all() for t in outputs):
        raise MeasureError(f'the {name} returns values that are not finite; its latency would mean nothing')
    return outputs


def _compare(want: Sequence[Tensor], got: Sequence[np.ndarray], name: str, runtime: str) -> None:
    """Every tensor that eager torch returns must be among what the runtime returned; exporters may order them anew."""
    if runtime == 'eager':
        return
    for tensor in want:
        exact = as_array(tensor).astype(np.float64)
        scale = max(float(np.linalg.norm(exact)), 1e-30)
        error = min((float(np.linalg.norm(g - exact)) / scale for g in got if g.shape == exact.shape), default=math.inf)
        allowed = max(TOLERANCE, 4 * torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else TOLERANCE
        if not error <= allowed:
            raise MeasureError(f'the {name} computes something else in {runtime} than in eager torch: relative error '
                               f'{error:.1e}, wanted at most {allowed:.0e}; its latency there would mean nothing')
