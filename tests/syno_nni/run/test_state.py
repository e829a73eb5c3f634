from __future__ import annotations

from pathlib import Path

import pytest

from syno_nni.errors import JournalError
from syno_nni.run.config import load_config
from syno_nni.run.directory import open_run
from syno_nni.run.journal import read_journal
from syno_nni.run.records import Ended

from ...testing.run_factory import fail, make_run, submit, succeed, write


def front_of(tmp_path: Path, points: list[tuple[float, float]]) -> list[str]:
    with open_run(load_config(), tmp_path / 'run') as journal:
        for number, (accuracy, speedup) in enumerate(points, 1):
            submit(journal, number, str(number))
            succeed(journal, number, str(number), accuracy, speedup)
    return [c.id for c in journal.state.front]


@pytest.mark.parametrize(('points', 'front'), [
    ([], []),
    ([(0.5, 1.0)], ['1']),
    ([(0.9, 1.0), (0.8, 2.0), (0.7, 1.5)], ['2', '1']),
    ([(0.9, 1.0), (0.9, 2.0)], ['2']),
    ([(0.9, 2.0), (0.8, 2.0)], ['1']),
    ([(0.9, 2.0), (0.9, 2.0)], ['1']),
    ([(0.7, 3.0), (0.8, 2.0), (0.9, 1.0)], ['1', '2', '3']),
])
def test_front_holds_what_nothing_beats_in_both(tmp_path: Path, points: list, front: list[str]) -> None:
    assert front_of(tmp_path, points) == front


def test_front_compares_by_speedup_since_the_machine_drifts(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 0, 'baseline', 'keep')
        succeed(journal, 0, 'baseline', 0.9, 1.0)
        for number, speedup, measured in ((1, 2.0, 8.0), (2, 1.5, 3.0)):  # the first while the machine was busy
            submit(journal, number, str(number))
            succeed(journal, number, str(number), 0.8, speedup, measured)
    assert [c.id for c in journal.state.front] == ['1']
    assert journal.state.latency_ms(journal.state.candidates['1']) == pytest.approx(2.0)


def test_baseline_and_failures_are_no_operators_with_results(tmp_path: Path) -> None:
    state = make_run(tmp_path / 'run').state
    assert state.baseline.id == 'baseline' and state.baseline not in state.operators
    assert [c.status for c in state.operators] == ['succeeded'] * 5 + ['failed']
    assert state.best == max(state.succeeded, key=lambda c: c.metrics['default'])
    assert state.failed[0].error.kind == 'timeout' and not state.in_flight


def test_attempts_count_crashes_but_not_clean_ends(tmp_path: Path) -> None:
    config, run_dir = load_config(), tmp_path / 'run'
    with open_run(config, run_dir) as journal:
        submit(journal, 1, 'a')
        write(journal, {'event': 'abandoned', 'number': 1, 'id': 'a'})
        assert (journal.state.candidates['a'].attempts, journal.state.candidates['a'].status) == (0, 'waiting')
        journal.append(Ended(reason='interrupted'))
    for attempt in (1, 2):
        with open_run(config, run_dir, resume=True) as journal:
            assert journal.state.ended is None
            submit(journal, 1, 'a')
            assert journal.state.candidates['a'].attempts == attempt
            assert [c.id for c in journal.state.in_flight] == ['a']
    assert journal.state.sessions == 3


def test_contradictions_are_refused_and_change_nothing(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
        fail(journal, 1, 'a')
        size = journal.path.stat().st_size
        for contradiction in (lambda: fail(journal, 1, 'a'), lambda: submit(journal, 1, 'a'),
                              lambda: fail(journal, 2, 'b')):
            with pytest.raises(JournalError):
                contradiction()
        assert journal.path.stat().st_size == size
        assert read_journal(journal.path) == journal.state


def test_outcomes_keep_the_order_of_the_journal_when_the_clock_steps_back(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1000, 0, -1))
    monkeypatch.setattr('syno_nni.run.records.clock.time', lambda: next(times))
    with open_run(load_config(), tmp_path / 'run') as journal:
        for number in (1, 2, 3):
            submit(journal, number, str(number))
        for number in (3, 1, 2):
            succeed(journal, number, str(number), 0.5, 1.0)
        assert [c.id for c in journal.state.finished] == [c.id for c in journal.state.succeeded] == ['3', '1', '2']
