"""Conformance suites of operator spaces.

A preset, or any other use of `OperatorSpace`, passes `OperatorSpaceSuite`; a space of one's own kind that strategies shall
search passes `SpaceSuite`. For pytest, subclass the suite under a name that starts with ``Test``::

    class TestMyPreset(OperatorSpaceSuite):
        @classmethod
        def make_space(cls):
            return OperatorSpace.preset('mine')

Nothing here needs pytest itself: every ``test_`` method takes no arguments and raises AssertionError, which says what is
wrong with which operator.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from syno_nni.errors import GraphError, SizeError, SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.legality import check
from syno_nni.synthesis import OperatorSpace
from syno_nni.synthesis.construction import steps
from syno_nni.synthesis.protocol import Space

# What the tests of one suite share: a space takes most of its time to get going.
_spaces: dict[type[SpaceSuite], Any] = {}
_samples: dict[type[SpaceSuite], tuple[Operator, ...]] = {}


def _walk(space: Space, rng: np.random.Generator) -> Iterator[Any]:
    """The states of a random way from the root until it ends."""
    state = space.root
    yield state
    while not state.is_final and (actions := space.actions(state)):
        state = space.step(state, actions[int(rng.integers(len(actions)))])
        yield state


class SpaceSuite:
    """What strategies rely on.

    Attributes:
        samples: how many operators are drawn.
        walks: how many random ways through the construction tree are taken.
        seed: where the random numbers start; what is wrong once in a thousand samples needs several.
    """

    samples: ClassVar[int] = 8
    walks: ClassVar[int] = 4
    seed: ClassVar[int] = 0

    @classmethod
    def make_space(cls) -> Space:
        """A new space, the same at every call."""
        raise NotImplementedError(f'{cls.__name__}: define the classmethod make_space, which returns the space to test')

    @property
    def space(self) -> Any:
        """The space that tests share."""
        suite = type(self)
        if suite not in _spaces:
            _spaces[suite] = suite.make_space()
        return _spaces[suite]

    @property
    def sampled(self) -> tuple[Operator, ...]:
        """Operators sampled from it."""
        suite = type(self)
        if suite not in _samples:
            rng = np.random.default_rng(self.seed)
            _samples[suite] = tuple(self.space.sample(rng) for _ in range(self.samples))
        return _samples[suite]

    def member(self, op: Operator) -> None:
        """Asserts that an operator is legal, in the space, and read back from its formula.

        Raises:
            AssertionError: says which of these fails.
        """
        assert isinstance(op, Operator), f'wanted an Operator, got {type(op).__name__}'
        try:
            check(op)
        except GraphError as error:
            raise AssertionError(f'{op} is not legal: {error}') from error
        inside = self.space.contains(op)
        assert inside, f'{op} is not in its own space: {inside}'
        assert Operator.parse(str(op)) == op, f'{op} is another operator once its formula is read back'

    # ---- sampling ----

    def test_samples_are_legal_members(self) -> None:
        for op in self.sampled:
            self.member(op)

    def test_samples_differ(self) -> None:
        different = len({op.id for op in self.sampled})
        assert different > 1, f'{self.samples} samples are one operator, {self.sampled[0]}'

    def test_the_seed_decides_what_is_sampled(self) -> None:
        for make in (np.random.default_rng, np.random.RandomState):
            def drawn(space: Any, seed: int, make: Any = make) -> list[str]:
                rng = make(seed)
                return [str(space.sample(rng)) for _ in range(max(2, self.samples // 2))]

            first = drawn(self.space, self.seed)
            assert drawn(self.space, self.seed) == first, f'{make.__name__}: what was sampled before matters'
            assert drawn(self.make_space(), self.seed) == first, f'{make.__name__}: two equal spaces sample differently'
            others = (drawn(self.space, self.seed + n) for n in (1, 2, 3))
            assert any(other != first for other in others), f'{make.__name__}: every seed gives the same samples'

    def test_neighbours_are_members_and_differ(self) -> None:
        moved = 0
        for number, op in enumerate(self.sampled):
            one, other = (self.space.mutate(op, np.random.default_rng(number)) for _ in range(2))
            assert str(one) == str(other), f'the neighbour of {op} is no function of the seed'
            self.member(one)
            moved += one != op
        assert 2 * moved > self.samples, f'{self.samples - moved} of {self.samples} operators are their own neighbours'

    # ---- the construction tree ----

    def test_a_path_leads_to_its_operator(self) -> None:
        for op in self.sampled:
            state = self.space.root
            for action in self.space.path(op):
                assert not state.is_final, f'the path of {op} goes on after a final state'
                assert isinstance(action.label, str) and action.label, f'a step of {op} has the label {action.label!r}'
                state = self.space.step(state, action)
            assert state.is_final, f'the path of {op} ends in a state that is not final'
            assert self.space.finish(state) == op, f'the path of {op} leads to {self.space.finish(state)}'

    def test_random_walks_end_in_members(self) -> None:
        rng = np.random.default_rng(self.seed)
        ended = 0
        for _ in range(self.walks):
            *_, last = _walk(self.space, rng)
            if last.is_final and (op := self.space.finish(last)) is not None:
                self.member(op)
                ended += 1
            if last.is_final:
                assert not self.space.actions(last), 'a final state has steps'
        assert ended or self._completed_on_the_way(), f'none of {self.walks} random walks ended in an operator'

    def _completed_on_the_way(self) -> bool:
        """Whether what walks pass through leads somewhere, in a space where they mostly miss the budgets."""
        states = list(_walk(self.space, np.random.default_rng(self.seed)))
        return any(self.space.complete(s, np.random.default_rng(0), thorough=False) is not None for s in states)

    def test_steps_change_no_state(self) -> None:
        rng = np.random.default_rng(self.seed)
        for state in _walk(self.space, rng):
            key = state.key
            hash(key)
            actions = self.space.actions(state)
            labels = [a.label for a in actions]
            for action in actions[:5]:
                keys = [self.space.step(state, action).key for _ in range(2)]
                assert keys[0] == keys[1], f'the step {action.label} leads to two states'
                assert keys[0] != key, f'the step {action.label} leads nowhere'
            assert state.key == key, 'a step changed the state that it was taken from'
            assert [a.label for a in self.space.actions(state)] == labels, 'a state has other steps when asked again'

    def test_partial_operators_are_completed(self) -> None:
        completed = 0
        for number, op in enumerate(self.sampled):
            state = self.space.root
            path = self.space.path(op)
            for action in path[:len(path) // 2]:
                state = self.space.step(state, action)
            one, other = (self.space.complete(state, np.random.default_rng(number), thorough=False) for _ in range(2))
            assert str(one) == str(other), f'the completion of half of {op} is no function of the seed'
            if one is not None:
                self.member(one)
                completed += 1
        assert 2 * completed >= self.samples, f'{completed} of {self.samples} halves of operators were completed at all'


class OperatorSpaceSuite(SpaceSuite):
    """What users of an `OperatorSpace` rely on beside.

    Attributes:
        enumerated_steps: how long the operators are that are enumerated; so many that there are some.
        enumerated: how many of them are looked at.
    """

    enumerated_steps: ClassVar[int] = 3
    enumerated: ClassVar[int] = 20

    @classmethod
    def make_space(cls) -> OperatorSpace:
        """A new space, the same at every call."""
        raise NotImplementedError(f'{cls.__name__}: define the classmethod make_space, which returns the space to test')

    def test_samples_fit_every_slot(self) -> None:
        space = self.space
        assert space.bindings, 'the space has no bindings: there is nothing that its operators fit'
        for op, binding in itertools.product(self.sampled, space.bindings):
            try:
                sizes = op.check_sizes(binding)
            except SizeError as error:
                raise AssertionError(f'{op} does not fit the slot {dict(binding)}: {error}') from error
            shapes = ('input', op.input_shape(sizes), space.inputs), ('output', op.output_shape(sizes), space.outputs)
            for what, got, wanted in shapes:
                shape = tuple(s.value(binding) for s in wanted)
                assert tuple(got) == shape, f'{op} has the {what} {tuple(got)} at {dict(binding)}, wanted {shape}'

    def test_samples_are_canonical(self) -> None:
        for op in self.sampled:
            self.canonical(op)

    def canonical(self, op: Operator) -> None:
        """Asserts that an operator is its own representative in the space."""
        form = self.space.canonical(op)
        assert form.structure == op.structure, f'{op} is not canonical; {form} is'

    def test_budgets_and_limits_are_kept(self) -> None:
        space = self.space
        for op in self.sampled:
            assert steps(op) <= space.limits.steps, f'{op} has {steps(op)} steps, the limit is {space.limits.steps}'
            for name, cost in (('macs_ratio', space.macs_over_layer), ('params_ratio', space.params_over_layer)):
                allowed = getattr(space, name)
                if allowed is not None:
                    assert allowed[0] <= cost(op) <= allowed[1], f'{op}: {name} is {cost(op):.4g}, allowed is {allowed}'

    def test_the_shape_distance_is_a_lower_bound(self) -> None:
        for op in self.sampled:
            state = self.space.root
            for action in self.space.path(op):
                bound, left = self.space.lower_bound(state), steps(op) - state.steps
                assert bound <= left, f'{left} steps before {op} is complete, the bound is {bound}'
                state = self.space.step(state, action)

    def test_enumeration_lists_members_once(self) -> None:
        listed = list(itertools.islice(self.space.enumerate(self.enumerated_steps), self.enumerated))
        assert listed, f'no operator has at most {self.enumerated_steps} steps; raise enumerated_steps of the suite'
        for what, names in (('formula', [str(op) for op in listed]), ('id', [op.id for op in listed])):
            assert len(set(names)) == len(names), f'the enumeration lists the same {what} twice'
        for op in listed:
            self.member(op)
            self.canonical(op)
            assert steps(op) <= self.enumerated_steps, f'{op} has {steps(op)} steps, asked for {self.enumerated_steps}'
        again = itertools.islice(self.make_space().enumerate(self.enumerated_steps), self.enumerated)
        assert list(map(str, again)) == list(map(str, listed)), 'two enumerations differ'

    def test_the_layer_replaced_has_the_shapes_of_the_space(self) -> None:
        layer = self.space.layer
        if layer is not None:
            shapes = tuple(c.size for c in layer.inputs), layer.outputs
            wanted = self.space.inputs, self.space.outputs
            assert shapes == wanted, f'the layer replaced, {layer}, has the shapes {shapes}, wanted {wanted}'
            assert self.space.macs_over_layer(layer) == self.space.params_over_layer(layer) == 1, f'{layer} costs itself'

    def test_others_are_outside_with_a_reason(self) -> None:
        answer = self.space.contains(Operator.parse('out[a:Other_A] = sum[b:Other_B] in[b] * w1[a, b]'))
        assert not answer and str(answer), 'an operator of another signature is outside, and the answer says why'
        try:
            self.space.contains('no operator')
        except SpaceError:
            return
        raise AssertionError('contains answers for what is no operator; wanted a SpaceError')


__all__ = ['OperatorSpaceSuite', 'SpaceSuite']
