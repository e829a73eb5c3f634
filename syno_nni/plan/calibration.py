"""The constants of the cost model, measured on this host in about a second and remembered."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import torch
import torch.nn.functional as F

from syno_nni.measure.lock import measurement_lock
from syno_nni.measure.threads import torch_threads
from syno_nni.measure.turns import take_turns

from .cache import read, remember
from .machine import Machine

LANES = {'AVX512': 16, 'AVX2': 8}
"""float32 numbers in a vector register; 4 (SSE, NEON) elsewhere."""


def calibrated(cache: Path, host: str) -> Machine:
    """The machine as measured, once for each ``host``; ``cache`` is a JSON file of earlier measurements.

    A cache that cannot be read or written only costs the second again.
    """
    names = {f.name for f in fields(Machine)}
    entry = read(cache).get(host)
    if isinstance(entry, dict) and set(entry) == names and all(_positive(v) for v in entry.values()):
        return Machine(**entry)
    machine = calibrate()
    remember(cache, host, asdict(machine))
    return machine


def calibrate(seconds: float = 0.1) -> Machine:
    """Measures one thread of this host.

    Args:
        seconds: for each of the five measurements.
    """
    image, kernel = torch.randn(1, 64, 56, 56), torch.randn(64, 64, 3, 3)
    rows, matrix, vector = torch.randn(64, 64, 256), torch.randn(2048, 2048), torch.randn(2048)
    small = torch.randn(4)
    out = torch.empty_like(rows)
    swapped = torch.empty(64, 256, 64)
    with torch.inference_mode(), torch_threads(1), measurement_lock():
        conv, copy, scatter, load, call = (_best(f, seconds) for f in (
            lambda: F.conv2d(image, kernel, padding=1), lambda: out.copy_(rows),
            lambda: swapped.copy_(rows.transpose(1, 2)), lambda: matrix @ vector, lambda: small + small))
    return Machine(
        dense=image.numel() * kernel[:, 0].numel() / conv,
        lanes=next((n for name, n in LANES.items() if name in torch.backends.cpu.get_cpu_capability()), 4),
        copy=8 * rows.numel() / copy, scatter=8 * rows.numel() / scatter, load=4 * matrix.numel() / load, call=call)


def _best(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the lower quartile: other processes only ever make a call slower."""
    (timings,) = take_turns([call], warmup=2, min_rounds=5, max_rounds=1000, seconds=seconds)
    return sorted(timings)[len(timings) // 4] / 1e3


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0
