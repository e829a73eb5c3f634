"""The operators that the original found: read, equal to its results, and equal to what people write by hand."""
from __future__ import annotations

import json

import numpy as np
import pytest

from syno_nni.operator import Operator, classics

from ...testing.published import NAMES, expected, facts, operator


@pytest.mark.parametrize('name', NAMES)
def test_reference_is_the_published_result(name: str) -> None:
    (x, *weights), want = expected(name)
    op, sizes = operator(name), facts(name)['binding']
    assert op.input_shape(sizes) == x.shape and op.output_shape(sizes) == want.shape
    assert op.weight_shapes(sizes) == tuple(w.shape for w in weights)
    assert np.linalg.norm(op.reference(x, weights, sizes) - want) <= 1e-9 * np.linalg.norm(want)


@pytest.mark.parametrize('name', NAMES)
def test_round_trips(name: str) -> None:
    op = operator(name)
    assert Operator.parse(str(op)) == op
    again = Operator.from_json(json.dumps(op.to_dict()))
    assert again.structure == op.structure and again.id == op.id


@pytest.mark.parametrize('name', NAMES)
def test_sizes_are_integers_at_every_slot(name: str) -> None:
    for slot in facts(name)['slots']:
        assert operator(name).check_sizes(slot['sizes']) == slot['sizes']


def test_operators_differ() -> None:
    assert len({operator(name).id for name in NAMES}) == len(NAMES)


@pytest.mark.skipif('resnet-07889' not in NAMES, reason='the published operators are not here')
def test_classics_name_the_two_of_the_paper() -> None:
    assert classics.operator_1() == operator('resnet-07889')
    assert classics.operator_2() == operator('resnet-07754')
