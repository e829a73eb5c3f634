"""A synthetic landscape: what an operator might be worth, at no cost. For comparing strategies in seconds.

It is made up, but not out of thin air. Accuracy grows with what an output sees of the image and of the channels, with
parameters and with multiply-adds, each with diminishing returns, and falls where the image is scrambled. On top come
rugged effects: a random factor for every link between two primitives, and random failures. Latency follows from
multiply-adds, memory traffic and a price for every stage. Another ``seed`` gives other rugged effects and other noise,
so a strategy tuned to one landscape shows on the next.

Nothing here looks at the construction steps that strategies keep statistics of.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from syno_nni.operator import Operator
from syno_nni.operator.classics import conv2d
from syno_nni.operator.cost import minimum_bytes
from syno_nni.operator.expr import MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold
from syno_nni.run.candidate import BASELINE, sample_id
from syno_nni.run.config import ObjectiveConfig
from syno_nni.run.records import Error, OutcomeKind

_CHANNELS, _SIDES = 1, (2, 3)
_MACS_PER_MS, _BYTES_PER_MS, _MS_PER_STAGE = 2e7, 1e7, 0.02
_REST_MS = 0.3
# What the other layers of the model take.
_NORMAL = NormalDist()


@dataclass(frozen=True)
class SimulatedResult:
    """What a simulated trial comes to: ``metrics`` or an ``error``, and the ``seconds`` that it would have taken.

    ``value`` is the objective without noise, which no strategy sees.
    """
    metrics: Mapping[str, float]
    seconds: float
    value: float
    error: Error | None = None


class SyntheticLandscape:
    """Evaluates samples of one choice over a ``conv2d`` space.

    Args:
        bindings: the slots, as the operator space has them, with all coefficients.
        seed: of rugged effects, failures and noise.
        objective: what is maximised.
        ruggedness: standard deviation of the logarithm of each random factor.
        noise: standard deviation of a measured accuracy.
        failure_rate: share of operators whose evaluation fails.
    """

    def __init__(self, bindings: Sequence[Mapping[str, int]], seed: int = 0, *,
                 objective: ObjectiveConfig | None = None, ruggedness: float = 0.06, noise: float = 0.005,
                 failure_rate: float = 0.03) -> None:
        self.bindings = [dict(b) for b in bindings]
        self.seed = seed
        self.objective = objective or ObjectiveConfig()
        self.ruggedness, self.noise, self.failure_rate = ruggedness, noise, failure_rate
        self._conv = conv2d()
        self._known: dict[str, SimulatedResult] = {}

    def __call__(self, sample: Mapping[str, str]) -> SimulatedResult:
        """The same for equal samples, on every machine."""
        key = sample_id(sample)
        if key not in self._known:
            (value,) = sample.values()
            self._known[key] = self._evaluate(key, self._conv if key == BASELINE else Operator.parse(value))
        return self._known[key]

    def _evaluate(self, key: str, op: Operator) -> SimulatedResult:
        macs, params = sum(map(op.macs, self.bindings)), sum(map(op.params, self.bindings))
        seconds = 20 + 40 * macs / sum(map(self._conv.macs, self.bindings))
        if key != BASELINE and self._uniform('fails', key) < self.failure_rate:
            return SimulatedResult({}, seconds, -math.inf, Error(kind=OutcomeKind.DIED, message='so the landscape wants it'))
        accuracy, latency_ms, baseline_ms = self.accuracy(op), self.latency_ms(op), self.latency_ms(self._conv)
        measured = min(1.0, max(0.0, accuracy + self.noise * self._normal('accuracy', key)))
        measured_ms = latency_ms * math.exp(0.02 * self._normal('latency', key))
        metrics = {'default': self.objective.score(measured, measured_ms, baseline_ms), 'accuracy': measured,
                   'latency_ms': measured_ms, 'baseline_latency_ms': baseline_ms,
                   'speedup': baseline_ms / measured_ms, 'macs': macs, 'params': params}
        return SimulatedResult(metrics, seconds, self.objective.score(accuracy, latency_ms, baseline_ms))

    def accuracy(self, op: Operator) -> float:
        """The accuracy without noise, 0 to 1."""
        sizes = self.bindings[0]
        sees = [min(1.0, math.log(_extent(op, side, sizes)) / math.log(5)) for side in _SIDES]
        mixed = min(1.0, math.prod(c.size.value(sizes) for c in set(op.inputs[_CHANNELS].iterators())
                                   if isinstance(c, Sum)) / op.inputs[_CHANNELS].size.value(sizes))
        quality = (0.45 + 0.55 * math.sqrt(sees[0] * sees[1])) * (0.5 + 0.5 * mixed ** 0.25)
        quality *= min(1.0, sum(op.params(b) / self._conv.params(b) for b in self.bindings) / len(self.bindings)) ** 0.12
        quality *= min(1.0, sum(op.macs(b) / self._conv.macs(b) for b in self.bindings) / len(self.bindings)) ** 0.06
        quality *= 0.93 ** sum(isinstance(node, (Split, MergeLeft, MergeRight)) for side in _SIDES
                               for node in op.inputs[side].walk())
        links = {(node.kind, str(node.size), child.kind, str(child.size)) for node in op.nodes() for child in node.bottom}
        quality *= math.exp(self.ruggedness * sum(self._normal(*link) for link in links))
        return 0.1 + 0.85 * (1 - math.exp(-1.5 * min(quality, 1.5))) / (1 - math.exp(-1.5 * 1.5))

    def latency_ms(self, op: Operator) -> float:
        """Milliseconds of the whole model without noise."""
        stages = len(op.weights) + sum(not isinstance(node, (Out, Sum, Unfold)) for node in op.nodes()) / 2
        return _REST_MS + sum(op.macs(b) / _MACS_PER_MS + minimum_bytes(op, b) / _BYTES_PER_MS + _MS_PER_STAGE * stages
                              for b in self.bindings)

    def _uniform(self, *what: Any) -> float:
        digest = hashlib.blake2b(repr((self.seed, *what)).encode(), digest_size=7).digest()
        return (int.from_bytes(digest) + 0.5) / 2 ** 56

    def _normal(self, *what: Any) -> float:
        return _NORMAL.inv_cdf(self._uniform(*what))


def _extent(op: Operator, side: int, sizes: Mapping[str, int]) -> float:
    """How far an output sees along an image side; a shift adds half a pixel."""
    extent = 1.0
    for node in {node for coordinate in op.inputs for node in coordinate.walk()}:
        if isinstance(node, (Unfold, Shift)) and any(isinstance(i, Out) and i.index == side for i in node.iterators()):
            extent += node.right.size.value(sizes) - 1 if isinstance(node, Unfold) else 0.5
    return extent
