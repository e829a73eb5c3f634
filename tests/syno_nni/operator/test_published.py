"""The operators that the original found: read, equal to its results, and equal to what people write by hand."""
from __future__ import annotations

import json

import numpy as np
import pytest

from syno_nni.operator import Operator, classics, read_graph_dot

from ...testing import published
from ...testing.operators import arrays, brute_force
from ...testing.published import BINDING, NAMES, expected, facts, graph, operator, slots, with_artifact

SMALL = {'N': 1, 'C_in': 8, 'C_out': 4, 'H': 4, 'g': 2, 'k_1': 3, 'k_2': 2, 's': 2}


def test_there_are_twelve() -> None:
    assert len(NAMES) == 12
    assert len({operator(name).id for name in NAMES}) == 12


@pytest.mark.parametrize('name', NAMES)
def test_reference_is_the_definition(name: str) -> None:
    op = operator(name)
    tensors = arrays(op, SMALL)
    np.testing.assert_allclose(op.reference(tensors[0], tensors[1:], SMALL), brute_force(op, tensors, SMALL), atol=1e-12)


@pytest.mark.parametrize('name', NAMES)
def test_round_trips(name: str) -> None:
    op = operator(name)
    assert Operator.parse(str(op)) == op
    again = Operator.from_json(json.dumps(op.to_dict()))
    assert again.structure == op.structure and again.id == op.id


@pytest.mark.parametrize('name', NAMES)
def test_they_cost_less_than_the_convolutions_they_replace(name: str) -> None:
    conv = classics.conv2d()
    for sizes in slots(name):
        assert operator(name).check_sizes(sizes) == sizes
    assert 0 < sum(map(operator(name).macs, slots(name))) < sum(map(conv.macs, slots(name)))
    assert 0 < sum(map(operator(name).params, slots(name))) < sum(map(conv.params, slots(name)))


def test_classics_name_the_two_of_the_paper() -> None:
    assert classics.operator_1() == operator('resnet-07889')
    assert classics.operator_2() == operator('resnet-07754')


# ---- the artifact ----

@with_artifact
def test_the_zoo_has_what_the_artifact_has() -> None:
    assert sorted(p.name for p in published.ARTIFACT.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert read_graph_dot(graph(name)) == operator(name)
        assert facts(name)['binding'] == BINDING
        assert [slot['sizes'] for slot in facts(name)['slots']] == slots(name)


@with_artifact
@pytest.mark.parametrize('name', NAMES)
def test_reference_is_the_published_result(name: str) -> None:
    (x, *weights), want = expected(name)
    op = read_graph_dot(graph(name))
    assert op.input_shape(BINDING) == x.shape and op.output_shape(BINDING) == want.shape
    assert op.weight_shapes(BINDING) == tuple(w.shape for w in weights)
    assert np.linalg.norm(op.reference(x, weights, BINDING) - want) <= 1e-9 * np.linalg.norm(want)


@with_artifact
@pytest.mark.parametrize('name', NAMES)
def test_they_cost_no_more_than_published(name: str) -> None:
    for slot in facts(name)['slots']:
        assert 0 < operator(name).macs(slot['sizes']) <= slot['published_macs']
