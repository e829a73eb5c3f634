"""What a retrofit gains: the one definition, which README, measurements and ``zoo list`` share.

A gain is the time of the original in the runtime that is best for *it*, divided by that of the retrofit in its own best
runtime: a ratio within one runtime flatters whatever the original is slow in. Only what was measured under the same
conditions (processor, threads, input, precision) is compared.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = tuple[str, str, Mapping[str, Any]]
"""The name of a retrofit, that of its original, and a claim or another measured row with the keys of one."""


@dataclass(frozen=True)
class Gain:
    """A retrofit in its best runtime against the original in its own; times in milliseconds."""
    runtime: str
    ms: float
    original_runtime: str
    original_ms: float
    cpu: str

    @property
    def speedup(self) -> float:
        """How many times as fast as the original."""
        return self.original_ms / self.ms


def originals(rows: Iterable[Row]) -> dict[str, float]:
    """Milliseconds of one original per runtime: the median over the retrofits that it was measured beside."""
    times: dict[str, list[float]] = {}
    for _, _, row in rows:
        times.setdefault(row['runtime'], []).append(row['baseline_latency_ms'])
    return {runtime: median(values) for runtime, values in times.items()}


def gains(rows: Iterable[Row]) -> dict[str, Gain]:
    """The gain of every retrofit with a measured row; the best where it was measured under several conditions."""
    alike: dict[str, list[Row]] = {}
    for name, base, row in rows:
        if row.get('speedup') and row.get('baseline_latency_ms'):
            conditions = [base, *(row.get(key) for key in ('cpu', 'threads', 'input', 'precision'))]
            alike.setdefault(json.dumps(conditions), []).append((name, base, row))
    best: dict[str, Gain] = {}
    for group in alike.values():
        own = originals(group)
        runtime = min(own, key=own.__getitem__)
        for name, _, row in group:
            # The retrofit's time is the original's in this runtime, divided by the measured ratio.
            gain = Gain(row['runtime'], own[row['runtime']] / row['speedup'], runtime, own[runtime], row.get('cpu') or '')
            if name not in best or gain.speedup > best[name].speedup:
                best[name] = gain
    return best
