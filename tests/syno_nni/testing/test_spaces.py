"""Every preset, a space with budgets, and the toy space of the strategies' tests pass the public suites; broken ones do not."""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from syno_nni.operator import Operator
from syno_nni.synthesis import OperatorSpace
from syno_nni.synthesis.presets import PRESETS
from syno_nni.synthesis.protocol import Space
from syno_nni.testing.spaces import OperatorSpaceSuite, SpaceSuite

from ...testing.toy import ToySpace


class PresetSuite(OperatorSpaceSuite):
    preset: ClassVar[str]
    samples = 4
    walks = 2
    enumerated = 8

    @classmethod
    def make_space(cls) -> OperatorSpace:
        return OperatorSpace.preset(cls.preset)

    def test_the_layer_replaced_is_inside(self) -> None:
        assert self.space.contains(self.space.layer), str(self.space.contains(self.space.layer))


class TestConv2d(PresetSuite):
    preset = 'conv2d'


class TestConv2dRectangular(PresetSuite):
    preset = 'conv2d_rectangular'


class TestDepthwise(PresetSuite):
    preset = 'depthwise'


class TestPointwise(PresetSuite):
    preset = 'pointwise'


class TestLinear(PresetSuite):
    preset = 'linear'


class TestConv1d(PresetSuite):
    preset = 'conv1d'


def test_every_preset_has_a_suite() -> None:
    assert {suite.preset for suite in PresetSuite.__subclasses__()} == set(PRESETS)


class TestSlotsWithBudgets(OperatorSpaceSuite):
    """As a search declares it: named slots, and both costs bounded."""

    enumerated_steps = 4
    enumerated = 3

    @classmethod
    def make_space(cls) -> OperatorSpace:
        slots = [{'N': 1, 'C_in': i, 'C_out': o, 'H': h} for i, o, h in ((64, 64, 28), (64, 128, 14), (128, 128, 14))]
        return OperatorSpace.preset('conv2d', bindings=slots, macs_ratio=(0.1, 0.9), params_ratio=(0.05, 1.0), complexity=0.8)


class TestToySpace(SpaceSuite):
    """A space of its own kind, without an `OperatorSpace`."""

    @classmethod
    def make_space(cls) -> Space:
        return ToySpace()


# ---- what is broken fails ----

class Broken:
    """The toy space with one method replaced; all others are forwarded."""

    def __init__(self, **replaced: Any) -> None:
        self._inner: Any = replaced.pop('inner', None) or ToySpace()
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


OPERATORS = ToySpace().operators
FOREIGN = Operator.parse('out[n:N] = in[n] * w1[n]')


def repeated_steps() -> Broken:
    toy = ToySpace()
    return Broken(step=lambda state, action: state if state.key else toy.step(state, action))


def one_after_another() -> Broken:
    order = itertools.cycle(OPERATORS)
    return Broken(sample=lambda rng: next(order))


@pytest.mark.parametrize('make, test', [
    (lambda: Broken(contains=lambda op: False), 'test_samples_are_legal_members'),
    (lambda: Broken(sample=lambda rng: str(OPERATORS[0])), 'test_samples_are_legal_members'),
    (lambda: Broken(sample=lambda rng: FOREIGN), 'test_samples_are_legal_members'),
    (lambda: Broken(sample=lambda rng: OPERATORS[0]), 'test_samples_differ'),
    (one_after_another, 'test_the_seed_decides_what_is_sampled'),
    (lambda: Broken(mutate=lambda op, rng: op), 'test_neighbours_are_members_and_differ'),
    (lambda: Broken(mutate=lambda op, rng: FOREIGN), 'test_neighbours_are_members_and_differ'),
    (lambda: Broken(path=lambda op: ToySpace().path(OPERATORS[0])), 'test_a_path_leads_to_its_operator'),
    (lambda: Broken(path=lambda op: ToySpace().path(op)[:2]), 'test_a_path_leads_to_its_operator'),
    (lambda: Broken(finish=lambda state: FOREIGN), 'test_random_walks_end_in_members'),
    (repeated_steps, 'test_steps_change_no_state'),
    (lambda: Broken(complete=lambda state, rng, thorough: None), 'test_partial_operators_are_completed'),
])
def test_a_broken_space_fails(make: Any, test: str) -> None:
    suite = type('BrokenSuite', (SpaceSuite,), {'make_space': classmethod(lambda cls: make()), 'samples': 6, 'walks': 2})
    with pytest.raises(AssertionError):
        getattr(suite(), test)()


def listed_twice(space: OperatorSpace) -> Any:
    def enumerate(steps: int) -> Iterator[Operator]:
        for op in space.enumerate(steps):
            yield op
            yield op

    return enumerate


def operator_space(**changes: Any) -> Broken:
    space = OperatorSpace.preset('linear')
    made = {name: change(space) for name, change in changes.items()}
    return Broken(inner=space, **made)


@pytest.mark.parametrize('changes, test', [
    ({'enumerate': listed_twice}, 'test_enumeration_lists_members_once'),
    ({'enumerate': lambda space: lambda steps: iter(())}, 'test_enumeration_lists_members_once'),
    ({'enumerate': lambda space: lambda steps: space.enumerate(steps + 1)}, 'test_enumeration_lists_members_once'),
    ({'bindings': lambda space: [{**space.bindings[0], 'C_in': 7}]}, 'test_samples_fit_every_slot'),
    ({'bindings': lambda space: ()}, 'test_samples_fit_every_slot'),
    ({'canonical': lambda space: lambda op: space.layer}, 'test_samples_are_canonical'),
    ({'macs_ratio': lambda space: (0.0, 1e-6)}, 'test_budgets_and_limits_are_kept'),
    ({'lower_bound': lambda space: lambda state: 99}, 'test_the_shape_distance_is_a_lower_bound'),
    ({'layer': lambda space: FOREIGN}, 'test_the_layer_replaced_has_the_shapes_of_the_space'),
    ({'contains': lambda space: lambda op: True}, 'test_others_are_outside_with_a_reason'),
])
def test_a_broken_operator_space_fails(changes: dict[str, Any], test: str) -> None:
    suite = type('BrokenSuite', (OperatorSpaceSuite,), {'make_space': classmethod(lambda cls: operator_space(**changes)),
                                                        'samples': 2, 'enumerated_steps': 4})
    with pytest.raises(AssertionError):
        getattr(suite(), test)()
