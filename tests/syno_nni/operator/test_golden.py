"""Formulas and ids are written into journals, zoos and papers: they never change by accident.

``pytest tests/syno_nni/operator/test_golden.py --update-golden`` rewrites the file of formulas. ``operators_format_1.json``
holds operators as format 1 wrote them; it is never rewritten, and read for ever.
"""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from syno_nni.operator import Operator
from syno_nni.operator.classics import CLASSICS

from ...testing.published import NAMES, operator

GOLDEN = Path(__file__).resolve().parent / 'golden'
FORMULAS = GOLDEN / 'formulas.json'
FORMAT_1 = json.loads((GOLDEN / 'operators_format_1.json').read_text())


def current() -> dict[str, Operator]:
    return {**{f'classics.{name}': make() for name, make in CLASSICS.items()},
            **{f'classics.{name}(W)': make(width='W') for name, make in CLASSICS.items()
               if 'width' in make.__code__.co_varnames},
            **{f'published.{name}': operator(name) for name in NAMES}}


def test_formulas_and_ids_are_as_ever(request: pytest.FixtureRequest) -> None:
    found = {name: {'id': op.id, 'formula': str(op)} for name, op in current().items()}
    if request.config.getoption('--update-golden'):
        FORMULAS.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
    golden = json.loads(FORMULAS.read_text())
    assert set(found) == set(golden), 'run with --update-golden'
    assert golden == found


@pytest.mark.parametrize('name', sorted(json.loads(FORMULAS.read_text())))
def test_golden_formulas_are_canonical(name: str) -> None:
    golden = json.loads(FORMULAS.read_text())[name]
    op = Operator.parse(golden['formula'])
    assert (str(op), op.id) == (golden['formula'], golden['id'])


@pytest.mark.parametrize('name', sorted(FORMAT_1))
def test_format_1_is_read_for_ever(name: str) -> None:
    stored = FORMAT_1[name]
    op = Operator.from_dict(stored['operator'])
    assert (str(op), op.id) == (stored['formula'], stored['id'])
    assert [len(w) for w in op.weights] == [len(w) for w in stored['operator']['weights']]
