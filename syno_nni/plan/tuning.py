"""Choosing a plan by measuring the best few of the cost model, with results remembered per host."""
from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from syno_nni.environment import cpu_name
from syno_nni.errors import MeasureError
from syno_nni.operator.size import Binding

from .cache import read, remember
from .calibration import calibrated
from .optimize import Plan, plans

if TYPE_CHECKING:
    from syno_nni.operator import Operator

CLOSE = 1.03
"""A plan has to be this much faster than one that the cost model prefers, or the difference may be noise."""


def optimize_plan(op: Operator, sizes: Binding, *, measure: bool = False, runtime: str = 'eager', candidates: int = 6,
                  seconds: float = 0.15, threads: int | None = None, cache: Path | None = None) -> Plan:
    """The best plan for an operator at a binding.

    Args:
        op, sizes: what to run; the batch size is ``sizes``'.
        measure: time the ``candidates`` that the cost model likes best, its constants measured on this host too
            (`syno_nni.plan.calibration`); otherwise take its first, which is the same on every host.
        runtime: where to time them (`syno_nni.measure.runtimes`).
        seconds: for each candidate.
        threads: None for as many as torch uses now.
        cache: a JSON file of earlier choices, beside which the host's constants are kept; None for
            ``default_cache()``.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
        MeasureError: the runtime is missing, or every candidate fails in it.
    """
    if not measure:
        return plans(op, sizes)[0]
    path = cache or default_cache()
    found = plans(op, sizes, calibrated(path.with_name('machine.json'), host_name()))
    if len(found) == 1:
        return found[0]
    threads = threads or torch.get_num_threads()
    key = _digest([str(op), sorted(op.check_sizes(sizes).items()), runtime, threads, host_name(), candidates,
                   [str(plan) for plan in found[:candidates]]])
    chosen = read(path).get(key)
    for plan in found[:candidates]:
        if _digest(str(plan)) == chosen:
            return plan
    best = _fastest(op, sizes, found[:candidates], runtime, seconds, threads)
    remember(path, key, _digest(str(best)))
    return best


def default_cache() -> Path:
    """``$SYNO_NNI_CACHE/plans.json``, or under the user's cache folder."""
    own = os.environ.get('SYNO_NNI_CACHE')
    if own is not None:
        return Path(own) / 'plans.json'
    return Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')).expanduser() / 'syno-nni' / 'plans.json'


def host_name() -> str:
    """What a measured choice holds for: machine type, processor and number of cores."""
    return f'{platform.machine()} {cpu_name()} x{os.cpu_count()}'


def _fastest(op: Operator, sizes: Binding, found: tuple[Plan, ...], runtime: str, seconds: float, threads: int) -> Plan:
    from syno_nni.measure.lock import measurement_lock
    from syno_nni.measure.runtime import Rounds
    from syno_nni.measure.runtimes import time_in
    from syno_nni.measure.threads import torch_threads

    from .fused_layer import FusedLayer
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=generator) / math.sqrt(max(math.prod(s), 1)) for s in op.weight_shapes(sizes)]
    models: list[nn.Module] = [FusedLayer(op, sizes, plan, weights).eval() for plan in found]
    x = torch.randn(op.input_shape(sizes), generator=generator)
    with torch.no_grad():
        want = models[0](x)
    with measurement_lock(), torch_threads(threads):
        timed = time_in(runtime, models, x, threads=threads,
                        rounds=Rounds(warmup=3, min_rounds=10, max_rounds=200, seconds=seconds * len(models)))
    right = [float(np.linalg.norm(got - want.numpy())) <= 1e-3 * float(want.norm()) for got in timed.outputs]
    if not any(right):
        raise MeasureError(f'no plan of operator {op.id} computes the right thing in {runtime}')
    # The lower quartile: other processes only ever make a call slower.
    times = [float(np.percentile(t, 25)) if ok else math.inf for t, ok in zip(timed.timings_ms, right)]
    return found[next(n for n, t in enumerate(times) if t <= CLOSE * min(times))]


def _digest(data: Any) -> str:
    return hashlib.blake2b(json.dumps(data).encode(), digest_size=8).hexdigest()
