"""Predicted latency of a layer in a runtime, without running it: counts of what it does, each at a price.

The prices are those of one thread of the host that they were fitted on (``benchmarks/predicted.py``); `CostModel.refined` moves
them towards another host or model by what has been measured there.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.optimize import nnls
from torch import nn

from syno_nni.errors import MeasureError, shown
from syno_nni.files import parse_json

from .features import NAMES, Features, features
from .work import Worker, work_of

GENERIC = 'generic'
FORMAT = 1
SPEEDUP_PER_THREAD = 0.8
"""What each thread after the first adds to the speed of work on data; the price of a call stays. Not measured: refine it."""
DOUBT = 0.5
"""How far a shipped price may be off, relative, against the noise of one measurement, ``NOISE``: how `refined` weighs both."""
NOISE = 0.15
FAR = 0.3
"""Errors of a measurement, as logarithms, above which it counts less."""
PASSES = 5
LEAST = 0.01
"""Of a price before it is refined: nothing becomes free because few measurements do not need it."""


@dataclass(frozen=True)
class CostModel:
    """Prices of what layers do.

    Attributes:
        runtime: that they are for.
        prices: milliseconds for one of each feature, by `features.NAMES`; those that are missing cost nothing.
    """
    runtime: str
    prices: Mapping[str, float]

    @classmethod
    def of(cls, runtime: str, threads: int = 1) -> CostModel:
        """The shipped prices of a runtime; those of a middling one where none are shipped for it.

        Raises:
            MeasureError: ``threads`` is not a positive number.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise MeasureError(f'a cost model is for at least one thread, got {threads!r:.40}')
        shipped = _shipped()
        prices = shipped.get(runtime, shipped[GENERIC])
        speed = 1 + SPEEDUP_PER_THREAD * (threads - 1)
        return cls(runtime, MappingProxyType({
            name: price if name.endswith('.calls') else price / speed for name, price in prices.items()}))

    def plan_ms(self, plan_or_layer: Any) -> float:
        """Milliseconds of a plan, or of a layer that has one, at the sizes and batch that it was made for.

        Raises:
            MeasureError: it is neither.
        """
        return self.ms(self.features(plan_or_layer))

    def layer_ms(self, module: nn.Module, input_shape: Sequence[int]) -> float:
        """Milliseconds of a layer (a convolution, a linear layer, a synthesized layer or a filled slot) on an input of this
        shape, batch included, between two convolutions and with an activation behind it.

        Raises:
            MeasureError: the module is of another kind, or does not take the shape.
        """
        return self.ms(self.features(module, input_shape))

    def features(self, plan_or_layer: Any, input_shape: Sequence[int] | None = None) -> Features:
        """What a plan or a layer does: non-negative counts by name (`syno_nni.measure.features`).

        Raises:
            MeasureError: as `plan_ms` and `layer_ms`.
        """
        if isinstance(plan_or_layer, nn.Module) and input_shape is not None:
            return features(work_of(plan_or_layer, input_shape))
        if isinstance(plan_or_layer, Worker):
            return features(plan_or_layer.work())
        raise MeasureError(f'cannot predict a {type(plan_or_layer).__name__} without the shape of its input: wanted a plan, '
                           'or a layer that has one')

    def ms(self, found: Features) -> float:
        """Milliseconds of what has these features."""
        return sum(self.prices.get(name, 0.0) * value for name, value in found.items())

    def refined(self, measured: Sequence[tuple[Features, float]]) -> CostModel:
        """Prices that also follow measurements: non-negative least squares of relative errors, with these prices as the prior.

        Few measurements change little beside the speed of the host as a whole; what none of them does keeps its price but
        for that.

        Args:
            measured: features and milliseconds.

        Raises:
            MeasureError: a latency is not a positive number.
        """
        rows = [(found, float(ms)) for found, ms in measured]
        if bad := [ms for _, ms in rows if not (math.isfinite(ms) and ms > 0)]:
            raise MeasureError(f'latencies are positive numbers of milliseconds, got {bad[0]}')
        rows = [(found, ms) for found, ms in rows if self.ms(found) > 0]
        if not rows:
            return self
        speed = _speed([ms / self.ms(found) for found, ms in rows])
        prior = {name: price * speed for name, price in self.prices.items()}
        return CostModel(self.runtime, MappingProxyType(fitted(rows, prior, DOUBT)))


def _speed(ratios: Sequence[float]) -> float:
    """How much slower the host is as a whole: the median ratio, drawn towards 1 as if it had been seen twice already."""
    return math.exp(float(np.median([*map(math.log, ratios), 0.0, 0.0])))


def fitted(rows: Sequence[tuple[Features, float]], prior: Mapping[str, float], doubt: float) -> dict[str, float]:
    """Prices near ``prior`` that explain measurements: the relative errors of rows over ``NOISE`` and the relative changes of
    prices over ``doubt`` are squared and added; rows that are far off anyway (something else ran) count less.

    Args:
        rows: features and milliseconds.
        prior: a price that is zero or missing stays so.
    """
    names = [name for name, price in prior.items() if price > 0]
    prices = np.array([prior[name] for name in names])
    matrix = np.array([[found.get(name, 0.0) / ms for name in names] for found, ms in rows]) * prices
    kept = np.eye(len(names)) / doubt
    weights, factors = np.ones(len(rows)), np.ones(len(names))
    for _ in range(PASSES):
        system = np.vstack([matrix * weights[:, None] / NOISE, kept])
        factors, _ = nnls(system, np.concatenate([weights / NOISE, np.full(len(names), 1 / doubt)]), maxiter=100 * len(names))
        errors = np.abs(np.log(np.maximum(matrix @ factors, 1e-3)))
        weights = np.sqrt(np.minimum(1.0, FAR / np.maximum(errors, 1e-9)))
    return dict(zip(names, (prices * np.maximum(factors, LEAST)).tolist()))


@cache
def _shipped() -> dict[str, dict[str, float]]:
    return read_prices(resources.files(__package__).joinpath('prices.json').read_text(encoding='utf-8'), 'prices.json')


def read_prices(text: str, where: str) -> dict[str, dict[str, float]]:
    """Prices by runtime from JSON; nothing but what is known is let in.

    Raises:
        MeasureError: it is of another format, a price has an unknown name or is not a number of at least 0, or the generic
            ones are missing.
    """
    data = parse_json(text, where, MeasureError)
    if not isinstance(data, dict) or data.get('format') != FORMAT or not isinstance(data.get('runtimes'), dict):
        raise MeasureError(f'{where}: not prices of format {FORMAT}')
    for runtime, prices in data['runtimes'].items():
        if not isinstance(prices, dict):
            raise MeasureError(f'{where}: {shown(runtime)}: wanted prices by name')
        for name, price in prices.items():
            if name not in NAMES:
                raise MeasureError(f'{where}: {shown(runtime)}: unknown feature {shown(name)}')
            if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < math.inf:
                raise MeasureError(f'{where}: {shown(runtime)}: {name}: wanted a number of at least 0, got {price!r:.40}')
    if GENERIC not in data['runtimes']:
        raise MeasureError(f'{where}: the prices of {GENERIC!r} are missing')
    return data['runtimes']
