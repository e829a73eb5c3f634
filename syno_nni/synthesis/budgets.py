"""What an operator of a space may cost: multiply-adds and parameters, relative to the layers that it replaces."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Iterator as Iter
from fractions import Fraction
from functools import cached_property

from syno_nni.errors import SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.size import Binding, Size

from .domain import SizeDomain
from .limits import Limits

Ratio = tuple[float, float]  # least and greatest
MAX_VOLUMES = 100_000        # remembered; then memory is given back
MAX_WEIGHTS = 8              # what an operator may have at all


class Budgets:
    """The ranges allowed and what operators cost, both summed over all bindings: a repeated binding counts twice.

    ``layer`` is the operator replaced; without it nothing can be asked but `complaints`, which are none.
    """

    def __init__(self, layer: Operator | None, outputs: Sequence[Size], domain: SizeDomain,
                 macs_ratio: Ratio | None, params_ratio: Ratio | None) -> None:
        self.layer = layer
        self.bindings: tuple[Binding, ...] = domain.bindings
        self.outputs = tuple(outputs)
        self.domain = domain
        self.macs_ratio = macs_ratio
        self.params_ratio = params_ratio
        self._volumes: dict[tuple[Size, ...], float] = {}

    def complaints(self, op: Operator) -> Iter[str]:
        """Which ranges an operator misses, in words."""
        if self.bindings and self.params_ratio:
            ratio = self.params_over_layer(op)
            if not self.params_ratio[0] <= ratio <= self.params_ratio[1]:
                yield f'params_ratio: the params are {ratio:.3f} of the layers replaced, allowed is {self.params_ratio}'
        if self.bindings and self.macs_ratio:
            ratio = self.macs_over_layer(op)
            if not self.macs_ratio[0] <= ratio <= self.macs_ratio[1]:
                yield f'macs_ratio: the MACs are {ratio:.3f} of the layers replaced, allowed is {self.macs_ratio}'

    def macs_over_layer(self, op: Operator) -> float:
        """MACs relative to the layers replaced."""
        return sum(count * op.macs(b) for b, count in self._counted_bindings) / self.layer_macs

    def params_over_layer(self, op: Operator) -> float:
        """Params relative to the layers replaced."""
        return sum(count * op.params(b) for b, count in self._counted_bindings) / self.layer_params

    def volume_over_layer(self, reductions: Iterable[Size]) -> float:
        """Products of output elements and reductions relative to the MACs of the layers replaced."""
        key = tuple(reductions)
        found = self._volumes.get(key)
        if found is None:
            if len(self._volumes) >= MAX_VOLUMES:
                self._volumes.clear()
            volumes: Sequence[Fraction | int] = self._output_elements
            for size in key:
                volumes = [v * r for v, r in zip(volumes, self.domain.ratios(size))]
            found = self._volumes[key] = float(sum(volumes)) / self.layer_macs
        return found

    @cached_property
    def layer_macs(self) -> int:
        """The MACs of the layers replaced.

        Raises:
            SpaceError: there is no layer, or no slot where it stands.
        """
        layer = self._replaced
        return sum(layer.macs(b) for b in self.bindings)

    @cached_property
    def layer_params(self) -> int:
        """The params of the layers replaced.

        Raises:
            SpaceError: there is no layer, or no slot where it stands.
        """
        layer = self._replaced
        return sum(layer.params(b) for b in self.bindings)

    @property
    def _replaced(self) -> Operator:
        if self.layer is None or not self.bindings:
            missing = 'layer' if self.layer is None else 'bindings'
            raise SpaceError(f'no cost relative to the layers replaced: the space has no {missing}; declare layer and bindings')
        return self.layer

    @cached_property
    def _output_elements(self) -> list[int]:
        return [math.prod(s.value(b) for s in self.outputs) for b in self.bindings]

    @cached_property
    def _counted_bindings(self) -> tuple[tuple[Binding, int], ...]:
        """The different bindings, and how many slots have each."""
        counts = Counter(tuple(b.items()) for b in self.bindings)
        return tuple((dict(items), count) for items, count in counts.items())

    # ---- whether any operator can meet them ----

    def check_possible(self, inputs: Sequence[Size], limits: Limits) -> None:
        """Refuses ranges that no operator from ``inputs`` meets, by crude bounds.

        Raises:
            SpaceError: says what any operator costs at least or at most.
        """
        if not self.bindings:
            return
        weights = limits.weights if limits.weights > 0 else MAX_WEIGHTS
        variables = self.domain.variables.values()
        reduced = [math.prod(b[v.name] ** v.budget for v in variables) for b in self.bindings]
        free = [math.prod(s.value(b) for s in self.outputs if not self.domain.has_banned(s)) for b in self.bindings]
        reads = sum(math.prod(s.value(b) for s in inputs) for b in self.bindings)
        if self.macs_ratio:
            # Every element of the input is multiplied or added at least once, unless strides skip some.
            least = reads / self.layer_macs if limits.strides == 0 else 0.0
            most = weights * sum(o * r for o, r in zip(self._output_elements, reduced)) / self.layer_macs
            _check_range('macs_ratio', self.macs_ratio, least, most)
        if self.params_ratio:
            least = limits.heuristics.min_weight * len(self.bindings) / self.layer_params
            most = weights * sum(f * r for f, r in zip(free, reduced)) / self.layer_params
            _check_range('params_ratio', self.params_ratio, least, most)


def _check_range(name: str, allowed: Ratio, least: float, most: float) -> None:
    if allowed[1] < least or allowed[0] > most:
        raise SpaceError(f'impossible space: {name} {allowed} cannot be met; any operator of these shapes and budgets has '
                         f'between {least:.4g} and {most:.4g} of the layers replaced')


def checked_ratio(name: str, value: Sequence[float] | None) -> Ratio | None:
    """A declared range as two floats; None stays None.

    Raises:
        SpaceError: it is no pair, or empty.
    """
    if value is None:
        return None
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise SpaceError(f'{name} must be a pair (least, greatest) such as (0.15, 0.9), got {value!r}') from None
    if not 0 <= low <= high:
        raise SpaceError(f'{name}: the budget is empty: wanted 0 <= least <= greatest, got {value!r}')
    return low, high


__all__ = ['Budgets', 'Ratio', 'checked_ratio']
