"""Operator spaces: declaring them, what they hold, and the construction tree."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import yaml

import syno_nni as sn
from syno_nni.errors import SpaceError, SynoError
from syno_nni.synthesis.construction import Reduce, State, View, steps
from syno_nni.synthesis.domain import SizeFault
from syno_nni.synthesis.presets import PRESETS
from syno_nni.synthesis.spreading import MacsBound

from ...testing import published

RATIO = (0.15, 0.9)


@pytest.fixture(scope='module')
def conv2d() -> sn.OperatorSpace:
    return sn.OperatorSpace.preset('conv2d', macs_ratio=RATIO)


@pytest.fixture(scope='module')
def samples(conv2d: sn.OperatorSpace) -> list[sn.Operator]:
    rng = np.random.default_rng(1)
    return [conv2d.sample(rng) for _ in range(25)]


# ---- what is sampled ----

def test_samples_of_several_slots_are_legal_and_read_back() -> None:
    """Many of them: what breaks one in a hundred samples breaks every search."""
    slots = [{'N': 1, 'C_in': i, 'C_out': o, 'H': h, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}
             for i, o, h in ((64, 64, 16), (64, 128, 8), (128, 128, 8))]
    space = sn.OperatorSpace.preset('conv2d', bindings=slots, macs_ratio=RATIO)
    rng = np.random.default_rng(5)
    for op in (space.sample(rng) for _ in range(400)):
        assert sn.Operator.parse(str(op)) == op


def test_sampling_does_not_depend_on_the_hash_seed() -> None:
    script = ('import numpy as np, syno_nni as sn; s = sn.OperatorSpace.preset("conv2d", macs_ratio=(0.15, 0.9)); '
              'r = np.random.default_rng(3); print([s.sample(r).id for _ in range(4)])')
    runs = {subprocess.run([sys.executable, '-c', script], env={'PYTHONHASHSEED': seed}, capture_output=True, text=True,
                           check=True, timeout=120).stdout for seed in ('0', '1')}
    assert len(runs) == 1


def test_a_random_state_is_as_good_as_a_generator(conv2d: sn.OperatorSpace) -> None:
    assert conv2d.sample(np.random.RandomState(0)) == conv2d.sample(np.random.RandomState(0))
    with pytest.raises(SpaceError, match='rng must be'):
        conv2d.sample(0)


def test_min_steps_asks_for_long_operators(conv2d: sn.OperatorSpace) -> None:
    rng = np.random.default_rng(0)
    assert all(steps(conv2d.sample(rng, min_steps=9)) >= 9 for _ in range(5))


def test_synthesis_imports_neither_torch_nor_nni() -> None:
    script = ('import sys, syno_nni.synthesis as s; s.OperatorSpace.preset("conv2d"); '
              'sys.exit(bool({"torch", "nni", "timm"} & set(sys.modules)))')
    assert subprocess.run([sys.executable, '-c', script], timeout=60).returncode == 0


def test_complexity_asks_for_longer_operators() -> None:
    def mean(complexity: float) -> float:
        space = sn.OperatorSpace.preset('conv2d', complexity=complexity)
        rng = np.random.default_rng(0)
        return float(np.mean([steps(space.sample(rng)) for _ in range(12)]))

    assert mean(0.0) + 1 < mean(1.0)


@pytest.mark.parametrize('binding', [{'N': 1, 'C_in': 64, 'C_out': 64, 'H': 14}, {'N': 8, 'C_in': 128, 'C_out': 32, 'H': 7},
                                     {'N': 1, 'C_in': 24, 'C_out': 96, 'H': 56, 'g': 8}])
def test_sizes_that_are_equal_at_the_bindings_are_one(binding: dict[str, int]) -> None:
    space = sn.OperatorSpace.preset('conv2d', bindings=[binding])
    rng = np.random.default_rng(0)
    for _ in range(12):
        op = space.sample(rng)
        assert space.contains(op) and space.canonical(op).structure == op.structure


def test_canonicalization_ends_where_factors_are_equal_numbers() -> None:
    space = sn.OperatorSpace.preset('depthwise', bindings=[{'N': 1, 'C': 12, 'H': 10, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3}])
    head = 'out[n:N, x:C, h:H, w:H] = sum[c:C/g] in[n, x, w, h]'
    forms = {space.canonical(sn.Operator.parse(f'{head} * w1[c, x{a}] * w2[c, x{b}]'))
             for a, b in (('//(C/g/s)', '%(C/g/s)'), ('//s', '%s'), ('%(g*s)', '//(g*s)'))}
    assert len(forms) == 1


def test_the_quick_bound_of_macs_is_one(conv2d: sn.OperatorSpace, samples: list[sn.Operator]) -> None:
    for op in samples:
        matched = State(op.outputs, op.reductions, (), 'weigh', inputs=op.inputs)
        assert MacsBound(conv2d.signature, matched)(op.weights) >= conv2d.macs_over_layer(op) * (1 - 1e-9)


# ---- membership ----

@pytest.mark.parametrize('name', published.NAMES)
def test_published_operators_are_inside(name: str) -> None:
    op = published.operator(name)
    assert sn.OperatorSpace.preset('conv2d').contains(op)
    inside = sn.OperatorSpace.preset('conv2d', bindings=published.slots(name)).contains(op)
    assert inside, str(inside)


OUTSIDE = {
    'signature': 'out[n:N, o:C_out, h:H] = sum[c:C_in] in[n, c, h] * w1[o, c]',
    'tied': 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c, i, n]',
    'weights': 'out[n:N, o:C_out, h:H, w:H] = sum[r:C_in/C_out] in[n, o*(C_in/C_out) + r, h, w]',
    'reductions': 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, x:C_out/s] in[n, c, h, w] * w1[o, x] * w2[x, c]',
    'strides': 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in/s] in[n, stride(c, s), h, w] * w1[o, c]',
    'window': 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:s] in[n, c, unfold(h, i), w] * w1[o, c, i]',
    'steps': 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in/s, r:s, i:k_1, j:k_1, a:g/s] in[n, c*s + r, shift(unfold(w, j), 1), '
             'shift((unfold(h, i)%(H/k_2))*k_2 + (unfold(h, i)//(H/k_2)), 1)] * w1[o, i, c, a] * w2[j, o//s, a, r]',
}


@pytest.mark.parametrize('reason', OUTSIDE)
def test_outside_comes_with_a_reason(reason: str) -> None:
    bound = sn.OperatorSpace.preset('conv2d', bindings=PRESETS['conv2d'].bindings)
    answer = bound.contains(sn.Operator.parse(OUTSIDE[reason]))
    assert not answer
    assert reason in str(answer), str(answer)


def test_budgets_are_relative_to_the_layers_replaced(conv2d: sn.OperatorSpace) -> None:
    assert conv2d.macs_over_layer(conv2d.layer) == 1.0
    assert 'macs_ratio' in str(conv2d.contains(conv2d.layer))
    assert sn.OperatorSpace.preset('conv2d').contains(conv2d.layer)
    small = sn.OperatorSpace.preset('conv2d', params_ratio=(0.0, 0.05))
    rng = np.random.default_rng(0)
    assert all(small.params_over_layer(small.sample(rng)) <= 0.05 for _ in range(3))


def test_repeated_bindings_count_twice() -> None:
    few, many = ({'N': 1, 'C_in': c, 'C_out': c, 'H': 14} for c in (64, 256))
    once, twice = (sn.OperatorSpace.preset('conv2d', bindings=b) for b in ([few, many], [few, many, many]))
    # Its share of a convolution depends on the number of channels.
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[r:g, i:k_1, j:k_1, c:C_in] '
                           'in[n, c, unfold(h, i), unfold(w, j)] * w1[c, r] * w2[o, r, i, j]')
    assert once.macs_over_layer(op) > twice.macs_over_layer(op) > 0


@pytest.mark.parametrize('size, fault', [
    ('Q', SizeFault.UNKNOWN_VARIABLE), ('k_1/C_in', SizeFault.DIVIDES_BY_PRIMARY), ('2*C_in', SizeFault.HAS_NUMBER),
    ('1/s', SizeFault.NOTHING_ABOVE), ('C_in*C_out*s*g', SizeFault.TOO_MANY_VARIABLES), ('C_in^17', SizeFault.TOO_HIGH_POWERS),
    ('C_in/k_1', SizeFault.NOT_WHOLE), ('N', SizeFault.ONE), ('C_in/s', None),
])
def test_illegal_sizes_have_a_fault(conv2d: sn.OperatorSpace, size: str, fault: SizeFault | None) -> None:
    complaint = conv2d.signature.domain.complaint(sn.Size.parse(size))
    assert (complaint and complaint.fault) == fault
    assert conv2d.signature.domain.legal(sn.Size.parse(size)) == (complaint is None)
    assert complaint is None or 'size' in str(complaint)


@pytest.mark.parametrize('missing', ['layer', 'bindings'])
def test_a_cost_relative_to_nothing_is_refused(missing: str) -> None:
    from syno_nni.synthesis import Variable
    op = sn.Operator.parse('out[n:N, o:C] = sum[c:C] in[n, c] * w1[o, c]')
    parts = {'layer': op, 'bindings': [{'N': 1, 'C': 8}]}
    del parts[missing]
    space = sn.OperatorSpace(['N', 'C'], ['N', 'C'], [Variable('N', 0), Variable('C', 2)], tied={0: 0}, **parts)
    for cost in (space.macs_over_layer, space.params_over_layer):
        with pytest.raises(SpaceError, match=f'no {missing}'):
            cost(op)


# ---- impossible spaces ----

@pytest.mark.parametrize('arguments, reason', [
    ({'bindings': []}, 'no slot'),
    ({'bindings': [{'N': 1, 'C_in': 64}]}, 'C_out'),
    ({'bindings': [{'N': 1, 'C_in': 64, 'C_out': 0, 'H': 8}]}, 'positive integer'),
    ({'bindings': ['H=8']}, 'dict'),
    ({'macs_ratio': (0.9, 0.15)}, 'empty'),
    ({'macs_ratio': (0.1,)}, 'pair'),
    ({'macs_ratio': (1e-9, 1e-8)}, 'macs_ratio'),
    ({'params_ratio': (1e40, 1e41)}, 'params_ratio'),
    ({'steps': 1}, 'steps'),
    ({'weights': 0}, 'weights'),
    ({'reductions': 0}, 'impossible'),
    ({'steps': 2, 'reductions': 0}, 'impossible'),
    ({'splits': -2}, 'splits'),
    ({'stepps': 3}, 'steps'),
    ({'odd_windows': 3}, 'odd_windows'),
    ({'min_rank': 9, 'max_rank': 3}, 'min_rank'),
    ({'complexity': 2}, 'complexity'),
])
def test_impossible_spaces_are_refused_with_the_reason(arguments: dict, reason: str) -> None:
    with pytest.raises(SynoError, match=reason):
        sn.OperatorSpace.preset('conv2d', **arguments).sample(np.random.default_rng(0))


def test_unreachable_shapes_are_refused() -> None:
    from syno_nni.synthesis import Variable
    with pytest.raises(SpaceError, match='impossible'):
        sn.OperatorSpace(['N', 'C', 'H'], ['N', 'C'], [Variable('N', 0), Variable('C', 2), Variable('H', 0)], tied={0: 0})
    with pytest.raises(SpaceError, match='tied'):
        sn.OperatorSpace(['N', 'C'], ['C', 'N'], [Variable('N', 0), Variable('C', 2)], tied={0: 0})
    with pytest.raises(SpaceError, match='Q'):
        sn.OperatorSpace(['N', 'Q'], ['N', 'C'], [Variable('N', 0), Variable('C', 2)], tied={0: 0})


def test_a_wrong_preset_name_gets_a_hint() -> None:
    with pytest.raises(SpaceError, match="did you mean 'conv2d'"):
        sn.OperatorSpace.preset('conv2')
    with pytest.raises(SpaceError, match='preset'):
        sn.OperatorSpace.from_dict({'bindings': []})


def test_a_space_is_declared_by_plain_data() -> None:
    data = yaml.safe_load('{preset: linear, bindings: [{N: 1, T: 8, C_in: 64, C_out: 128}], macs_ratio: [0.1, 0.8], steps: 6}')
    space = sn.OperatorSpace.from_dict(data)
    assert space.limits.steps == 6 and space.macs_ratio == (0.1, 0.8)
    assert space.contains(space.sample(np.random.default_rng(0)))


# ---- mutation and the tree ----

def test_a_path_leads_to_its_operator(conv2d: sn.OperatorSpace, samples: list[sn.Operator]) -> None:
    for op in samples:
        state = conv2d.root
        for action in conv2d.path(op):
            assert conv2d.lower_bound(state) <= steps(op) - state.steps
            assert action in conv2d.actions(state) or isinstance(action, (Reduce, View)), action.describe(state)
            assert action.describe(state) and action.label.split()[0] == action.kind and str(state)
            state = conv2d.step(state, action)
        assert state.is_final and conv2d.finish(state) == op


def test_no_completion_is_proved() -> None:
    space = sn.OperatorSpace.preset('conv1d', steps=3)
    from syno_nni.synthesis.construction import Reduce
    state = space.step(space.root, Reduce(sn.Size.parse('C_out')))
    assert space.complete(state, np.random.default_rng(0)) is None


def test_commuting_steps_meet_in_one_state(conv2d: sn.OperatorSpace) -> None:
    from syno_nni.synthesis.construction import Reduce
    one, other = (conv2d.step(conv2d.step(conv2d.root, Reduce(sn.Size.parse(a))), Reduce(sn.Size.parse(b)))
                  for a, b in (('C_in', 'k_1'), ('k_1', 'C_in')))
    assert one.key == other.key and one.key != conv2d.root.key
