"""The public toy space, engine and journal, with nine operators that fit convolutions of real models too."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from nni.nas.space import SimplifiedModelSpace

from syno_nni.nas import mutable
from syno_nni.nas.mutable import OperatorChoice
from syno_nni.operator import Operator
from syno_nni.testing import toy
from syno_nni.testing.toy import HANG, NO_REPORT, Evaluate, Nothing, ToyEngine, ToyJournal

__all__ = ['HANG', 'NO_REPORT', 'OPERATORS', 'Evaluate', 'Nothing', 'ToyEngine', 'ToyJournal', 'ToySpace', 'install',
           'landscape', 'model_space', 'wait_for']

_WINDOWS = [('h', 'w'), *[(f'unfold(h, i:{k})', 'w') for k in ('k_1', 'k_2')],
            *[('h', f'unfold(w, i:{k})') for k in ('k_1', 'k_2')]]


def _formula(h: str, w: str, full: bool) -> str:
    kernel = next((part.split(':')[1].rstrip(')') for part in (h, w) if ':' in part), None)
    sums = ', '.join(['c:C_in', *([f'i:{kernel}'] if kernel else [])])
    weights = ['w1[o, c, i]' if kernel else 'w1[o, c]'] if full or not kernel else ['w1[o, c]', 'w2[c, i]']
    axes = [part.split(':')[0] + ')' if ':' in part else part for part in (h, w)]
    return f'out[n:N, o:C_out, h:H, w:H] = sum[{sums}] in[n, c, {", ".join(axes)}] * {" * ".join(weights)}'


# Written with //, which NNI takes for a comment.
_HALVES = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_2, r:s] in[n, c, h, unfold(w, i)] '
           '* w1[o//(C_out/s), c, r] * w2[r, i, o%(C_out/s)]')
_FORMULAS = [*(_formula(h, w, full) for h, w in _WINDOWS for full in (True, False))][:-1] + [_HALVES]
OPERATORS = {op.id: op for op in map(Operator.parse, _FORMULAS)}
"""Nine operators by id: windows of two sizes along two axes with one or two weights, and a pointwise one."""


class ToySpace(toy.ToySpace):
    """The public toy space with these nine."""

    def __init__(self, operators: Iterable[Operator] = OPERATORS.values()) -> None:
        super().__init__(operators)


def install(space: toy.ToySpace | None = None) -> None:
    """Put a toy space, the one of nine if none is given, in the place of every operator space, for this process."""
    mutable._space = lambda key: space or ToySpace()  # type: ignore[assignment]


def model_space(*labels: str) -> SimplifiedModelSpace:
    """A model space with one choice per label."""
    choices = {label: OperatorChoice({'preset': 'toy'}, label=label) for label in labels or ('operator',)}
    return SimplifiedModelSpace(Nothing(), choices, None)


def landscape(sample: dict[str, str]) -> dict[str, float]:
    """A smooth landscape on the toy space: the last operator is the best, the baseline the worst."""
    everything = [*OPERATORS, *toy.OPERATORS]
    values = [everything.index(Operator.parse(v).id) if v != 'keep' else -1 for v in sample.values()]
    return {'default': float(sum(values)), 'accuracy': 0.5, 'latency_ms': 100.0 - sum(values)}


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.01)
