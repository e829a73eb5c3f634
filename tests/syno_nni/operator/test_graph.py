from __future__ import annotations

import copy
import pickle

import pytest

from syno_nni.errors import FormulaError, GraphError
from syno_nni.operator import Operator, classics, formula, serialize
from syno_nni.operator.canonical import canonical_form
from syno_nni.operator.draw import to_dot
from syno_nni.operator.expr import Out, Sum
from syno_nni.operator.graph import Graph, remembered
from syno_nni.operator.legality import check
from syno_nni.operator.orders import orders
from syno_nni.operator.size import Size

SIZES = {'N': 1, 'C_in': 8, 'C_out': 4, 'H': 6, 'k_1': 3}
TWICE = 'out[n:N, h:H] = in[n, h, h]'


def test_a_graph_need_not_be_legal() -> None:
    graph = formula.parse(TWICE)
    assert graph.input_shape(SIZES) == (1, 6, 6) and formula.to_text(graph) == TWICE
    with pytest.raises(GraphError, match='data-linear'):
        check(graph)
    for read in (lambda: Operator.parse(TWICE), lambda: Operator(*graph.structure),
                 lambda: Operator.from_dict(serialize.to_dict(graph))):
        with pytest.raises(GraphError, match='data-linear'):
            read()


def test_what_takes_a_graph_gives_the_same_for_the_operator() -> None:
    op = classics.operator_1()
    graph = Graph(*op.structure)
    assert not isinstance(graph, Operator)
    assert formula.to_text(graph) == formula.to_text(op) and serialize.to_dict(graph) == op.to_dict()
    assert orders(graph) == orders(op) and to_dot(graph) == to_dot(op)
    assert canonical_form(graph).structure == op.canonical.structure


def test_a_canonical_form_is_of_the_same_class() -> None:
    n, g, s = (Size.of(v) for v in ('N', 'g', 's'))
    for kind in (Graph, Operator):
        form = canonical_form(kind([n], [g, s], [Out(0, n), Sum(1, s), Sum(0, g)], []))
        assert type(form) is kind and form.reductions == (s, g)
        assert canonical_form(form) is form


def test_what_is_remembered_is_asked_once_and_stays_out_of_copies() -> None:
    asked = []

    @remembered
    def rank(graph: Graph) -> int:
        asked.append(graph)
        return len(graph.inputs)

    op = classics.conv2d()
    bare = pickle.dumps(op)
    assert (rank(op), rank(op), len(asked)) == (4, 4, 1)
    op.macs(SIZES)
    assert op.id and str(op) and op.variables
    assert pickle.dumps(op) == bare
    for other in (copy.copy(op), copy.deepcopy(op), pickle.loads(bare)):
        assert type(other) is Operator and other == op and hash(other) == hash(op)
        asked.clear()
        assert rank(other) == 4 and asked == [other]


@pytest.mark.parametrize('text', [
    'out[n:N^64*N^64] = in[n]', 'out[n:999999999999*999999999999] = in[n]', 'out[n:N^64] = in[stride(n, N)]',
    'out[n:N] = in[n//N^64%g//M^64//M]', 'out[n:9^20] = in[n]', 'out[n:N^65] = in[n]', 'out[n:0] = in[n]'])
def test_sizes_beyond_the_limits_are_errors_of_the_formula(text: str) -> None:
    with pytest.raises(FormulaError, match='cannot read formula: '):
        Operator.parse(text)
