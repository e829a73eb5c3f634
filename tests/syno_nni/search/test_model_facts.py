"""What a report adds about the model, on small models made here."""
from __future__ import annotations

from pathlib import Path

import pytest

from syno_nni.run.directory import open_run
from syno_nni.run.state import RunState
from syno_nni.search.model_facts import model_facts

from ...testing.run_factory import FORMULA, submit, succeed
from ...testing.searching import make_config


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    with open_run(make_config(slots={'kinds': ['conv3x3']}), tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
        succeed(journal, 1, 'a', 0.9, 2.0)
    return journal.state


def test_slots_and_plans_are_those_of_the_search(state: RunState) -> None:
    facts = model_facts(state)
    assert facts.slots and not facts.note
    assert {slot.label for slot in facts.slots} == {'operator'}
    assert all(slot.layer.startswith('Conv2d 3x3') and slot.macs > 0 and slot.sizes['k_1'] == 3 for slot in facts.slots)
    assert any('conv' in step for step in facts.plans[FORMULA].steps) and facts.plans[FORMULA].macs > 0


@pytest.mark.parametrize(('model', 'note'), [
    ({'name': 'no_such_model'}, 'no_such_model'), ({'name': 'hf-hub:someone/model'}, 'would have to be fetched'),
    ({'name': 'resnet10t', 'nonsense': 3}, 'nonsense'),
])
def test_a_model_that_cannot_be_made_is_a_note(model: dict, note: str, state: RunState) -> None:
    state.config['model'] = model
    facts = model_facts(state)
    assert facts.slots == () and note in facts.note and '\n' not in facts.note
