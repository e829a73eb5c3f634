"""The operator as an NNI mutable: one labelled choice out of an operator space."""
from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from nni.mutable import Categorical, LabeledMutable, Sample, SampleValidationError
from nni.mutable.exception import SampleMissingError
from nni.mutable.utils import auto_label

from syno_nni.errors import SpaceError, SynoError
from syno_nni.operator import Operator
from syno_nni.run.candidate import KEEP

from . import patches  # noqa: F401 - formulas hold what NNI takes for comments

if TYPE_CHECKING:
    from syno_nni.synthesis.space import OperatorSpace

GRID_LIMIT = 64
"""Most values that a grid over an unbounded space lists."""

SpaceSpec = Mapping[str, Any]
"""JSON-able description of an operator space: ``preset`` and the keyword arguments of ``OperatorSpace.preset``."""


def operator_space(spec: SpaceSpec) -> OperatorSpace:
    """The operator space that ``spec`` describes; the same object for equal descriptions.

    Raises:
        SpaceError: the description is not JSON-able, has no ``preset``, or describes no space.
    """
    try:
        key = json.dumps(spec, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise SpaceError(f'the description of an operator space must be JSON data ({error}), got {spec!r}') from None
    return _space(key)


@lru_cache(maxsize=32)
def _space(key: str) -> OperatorSpace:
    from syno_nni.synthesis.space import OperatorSpace
    arguments = json.loads(key)
    preset = arguments.pop('preset', None)
    if not isinstance(preset, str):
        raise SpaceError(f"the description of an operator space needs a 'preset' such as 'conv2d', got {key}")
    try:
        return OperatorSpace.preset(preset, **arguments)
    except TypeError as error:
        raise SpaceError(f'the description of an operator space does not fit the preset {preset!r}: {error}') from None


def operator_pool(space: SpaceSpec, size: int, *, seed: int = 0, label: str | None = None) -> Categorical:
    """A choice among ``size`` samples of an operator space and :data:`KEEP`: for strategies that need a finite list, such
    as NNI's TPE and PolicyBasedRL.

    Raises:
        SpaceError: the space does not have so many operators, as far as sampling finds.
    """
    values = [KEEP, *itertools.islice(distinct_samples(operator_space(space), np.random.default_rng(seed), 50 * size), size)]
    if len(values) <= size:
        raise SpaceError(f'the pool is to hold {size} operators, and only {len(values) - 1} were found in the space')
    return Categorical(values, label=auto_label(label))


def is_pool(mutable: object) -> bool:
    """Whether a mutable is an :func:`operator_pool`."""
    return isinstance(mutable, Categorical) and len(mutable.values) > 1 and mutable.values[0] == KEEP and all(
        isinstance(value, str) and value.startswith('out[') for value in mutable.values[1:])


def distinct_samples(space: OperatorSpace, rng: np.random.Generator | np.random.RandomState, tries: int) -> Iterator[str]:
    """The formulas of distinct samples, until so many tries are over."""
    seen: set[str] = set()
    for _ in range(tries):
        value = str(space.sample(rng))
        if value not in seen:
            seen.add(value)
            yield value


class OperatorChoice(LabeledMutable):
    """A choice out of an operator space, or :data:`KEEP`.

    The value of a sample, the frozen value and what the web UI shows are one and the same string: the operator's
    canonical formula. NNI's own strategies write values into samples without freezing them, so the two must agree.

    Args:
        space: JSON-able description of the space (see :func:`operator_space`). Only it is kept, so that the mutable
            stays small when NNI serialises it and two mutables of one label compare equal.
        keep: probability with which :meth:`random` returns :data:`KEEP`; useful when there are several choices.
        label: name shared by all slots that the choice fills.
        any_operator: whether operators outside the space are values too; random ones are from the space all the same.
    """

    def __init__(self, space: SpaceSpec, *, keep: float = 0.0, label: str | None = None, any_operator: bool = False) -> None:
        self.label = auto_label(label)
        self.spec = dict(space)
        self.keep = keep
        self.any_operator = any_operator

    @property
    def space(self) -> OperatorSpace:
        """The operator space, built on first use."""
        return operator_space(self.spec)

    def extra_repr(self) -> str:
        return f'preset={self.spec.get("preset")!r}, label={self.label!r}'

    def check_contains(self, sample: Sample) -> SampleValidationError | None:
        """Why the sample is not of this space, or None. NNI wants the error returned, not raised."""
        if self.label not in sample:
            return SampleMissingError(self.label, list(sample))
        value = sample[self.label]
        if not isinstance(value, str):
            return SampleValidationError(f'{self.label}: a formula or {KEEP!r} is wanted, got {type(value).__name__}')
        if value == KEEP:
            return None
        try:
            operator = Operator.parse(value)
        except SynoError as error:
            return SampleValidationError(f'{self.label}: {error}')
        if str(operator) != value:
            return SampleValidationError(f'{self.label}: the formula is not canonical; write {operator}')
        if self.any_operator:
            return None
        inside = self.space.contains(operator)
        return None if inside else SampleValidationError(f'{self.label}: {value} is outside the space: {inside}')

    def freeze(self, sample: Sample) -> str:
        self.validate(sample)
        return sample[self.label]

    def default(self, memo: Sample | None = None) -> str:
        """:data:`KEEP`: a dry run of the model space then is the backbone itself."""
        memo = {} if memo is None else memo
        memo.setdefault(self.label, KEEP)
        return self.freeze(memo)

    def random(self, memo: Sample | None = None, random_state: np.random.RandomState | None = None) -> str:
        memo = {} if memo is None else memo
        if self.label not in memo:
            memo[self.label] = self.draw(np.random.RandomState() if random_state is None else random_state)
        return self.freeze(memo)

    def draw(self, rng: np.random.Generator | np.random.RandomState) -> str:
        """A random value: with probability ``keep`` :data:`KEEP`, else a sample of the space."""
        return KEEP if self.keep > 0 and rng.uniform() < self.keep else str(self.space.sample(rng))

    def grid(self, memo: Sample | None = None, granularity: int | None = None) -> Iterator[str]:
        """:data:`KEEP` and the first distinct samples of a fixed seed, ``2 ** granularity`` values in all.

        The space has no grid of its own; grid search lists whole grids up front, so this one is bounded.
        """
        memo = {} if memo is None else memo
        if self.label in memo:
            yield self.freeze(memo)
            return
        rng, wanted = np.random.RandomState(0), min(2 ** (granularity or 1), GRID_LIMIT)
        for value in (KEEP, *itertools.islice(distinct_samples(self.space, rng, 50 * wanted), wanted - 1)):
            memo[self.label] = value
            yield self.freeze(memo)
        del memo[self.label]

    def as_legacy_dict(self) -> dict[str, Any]:
        """What the web UI shows as search space."""
        return {'_type': 'operator', '_value': self.spec}
