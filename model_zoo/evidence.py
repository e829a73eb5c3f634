"""What a retrofit changes, as numbers with their conditions: MACs, parameters, latency in turns with the original."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.environment import cpu_name, environment
from syno_nni.errors import SynoError
from syno_nni.measure.latency import measure_pair
from syno_nni.search_spaces.retrofit.retrofit import filled_slots
from syno_nni.search_spaces.slots import Slot
from syno_nni.search_spaces.trace import trace


def change(original: nn.Module, result: nn.Module, slots: Sequence[Slot], example: Tensor) -> dict[str, int]:
    """``macs``, ``params`` and their ``baseline_`` twins, of whole models, MACs per sample; and the slots filled."""
    filled = filled_slots(result)
    macs = trace(original, example).macs
    saved = sum(s.macs - filled[s.name].macs * s.calls for s in slots if s.name in filled)
    return {'slots': len(filled), 'baseline_macs': macs, 'macs': macs - saved,
            'baseline_params': sum(p.numel() for p in original.parameters()),
            'params': sum(p.numel() for p in result.parameters())}


def speedup(original: nn.Module, result: nn.Module, example: Tensor, *, runtime: str = 'eager', threads: int | None = None,
            seconds: float = 3.0) -> dict[str, Any]:
    """Latency of a retrofit in its deploy form and of the original, in turns, in one runtime, with the conditions.

    ``speedup`` is the median over the turns, ``speedup_low`` and ``speedup_high`` its quartiles.

    Raises:
        MeasureError: the runtime is missing, or a model does not run in it.
    """
    from timm.utils.model import reparameterize_model
    pair = measure_pair(reparameterize_model(result).eval(), original, example, runtime=runtime, threads=threads,
                        seconds=seconds)
    return {'runtime': runtime, 'threads': pair.threads, 'input': list(example.shape), 'precision': 'float32',
            'latency_ms': round(pair.candidate.median_ms, 3), 'baseline_latency_ms': round(pair.baseline.median_ms, 3),
            'speedup': round(pair.speedup, 3), 'speedup_low': round(pair.speedup_low, 3),
            'speedup_high': round(pair.speedup_high, 3), 'rounds': pair.candidate.rounds, 'noisy': pair.noisy,
            'cpu': cpu_name(), 'date': time.strftime('%Y-%m-%d')}


def latencies(original: nn.Module, result: nn.Module, example: Tensor, runtimes: Sequence[str], *,
              threads: int | None = None, seconds: float = 3.0) -> list[dict[str, Any]]:
    """:func:`speedup` in several runtimes; one that fails has an ``error`` instead of numbers."""
    rows = []
    for runtime in runtimes:
        try:
            rows.append(speedup(original, result, example, runtime=runtime, threads=threads, seconds=seconds))
        except SynoError as error:
            rows.append({'runtime': runtime, 'error': ' '.join(str(error).split())})
        torch._dynamo.reset()
    return rows


def versions() -> Mapping[str, str]:
    """Of the libraries that latencies depend on."""
    known = environment()['versions']
    return {k: known[k] for k in ('syno-nni', 'torch', 'timm', 'onnxruntime', 'openvino') if k in known}
