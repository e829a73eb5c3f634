"""Costs of stages and rank correlations, from the journal alone."""
from __future__ import annotations

from pathlib import Path

import pytest

from syno_nni.run.config import load_config
from syno_nni.run.directory import open_run
from syno_nni.run.report import html_report, text_report
from syno_nni.run.stage_costs import rank_correlations, stage_costs
from syno_nni.run.state import RunState

from ...testing.run_factory import submit, succeed, write


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    with open_run(load_config(), tmp_path / 'run') as journal:
        for number in range(1, 7):
            submit(journal, number, f'{number}')
            succeed(journal, number, f'{number}', 0.5 + number / 100, 1.5, proxy_accuracy=0.2 + number / 50,
                    gradient_norm=-number ** 3, latency_seconds=2.0, train_seconds=10.0 + number)
        for number, stage, more in ((7, 'size', {}), (8, 'latency', {'latency_seconds': 3.0})):
            submit(journal, number, f'{number}')
            write(journal, {'event': 'finished', 'number': number, 'id': f'{number}', 'state': 'failed',
                           'metrics': {'stage': stage, **more}, 'error': {'kind': 'rejected', 'message': 'too much'}})
    return journal.state


def test_every_stage_has_its_cost(state: RunState) -> None:
    rows = [(c.name, c.reached, c.rejected, c.median_s, c.total_s) for c in stage_costs(state)]
    assert rows == [('size', 1, 1, 0.0, 0), ('latency', 7, 1, 2.0, 15.0), ('train', 6, 0, 13.5, 81.0)]


def test_rank_correlations(state: RunState) -> None:
    found = rank_correlations(state)
    assert found == {'proxy_accuracy': (pytest.approx(1), 6), 'gradient_norm': (pytest.approx(-1), 6)}
    assert 'params' not in found, 'a constant predicts nothing'


def test_the_report_shows_them(state: RunState, tmp_path: Path) -> None:
    page = html_report(state)
    assert 'Stages of evaluation' in page and 'proxy_accuracy +1.00' in page
    assert ', 1 rejected by size, 1 rejected by latency' in text_report(state, tmp_path)
    assert 'Stages' not in html_report(RunState(config=state.config))
