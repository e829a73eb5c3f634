"""The clock is set back, or forward, while a search runs."""
from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from syno_nni.run import records
from syno_nni.run.directory import load_run
from syno_nni.run.journal import Journal
from syno_nni.run.plots import convergence_png, pareto_png
from syno_nni.run.report import html_report, text_report
from syno_nni.search.run import run_search

from ..testing import toy
from ..testing.run_factory import make_run
from ..testing.searching import make_config


class Clock:
    """A clock that goes on by ten seconds at every look, and is set back by an hour now and then."""

    def __init__(self, seed: int) -> None:
        self.now, self._chance = 1.7e9, random.Random(seed)

    def time(self) -> float:
        self.now += 10 if self._chance.random() < 0.8 else -3600
        return self.now


@pytest.mark.parametrize('seed', range(4))
def test_reports_of_a_clock_that_jumps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(records, 'clock', Clock(seed))
    make_run(tmp_path / 'run', 12)
    state = load_run(tmp_path / 'run')
    forward = sum(b.time > a.time for a, b in zip(_records(tmp_path), _records(tmp_path)[1:]))
    assert state.elapsed_s == pytest.approx(10 * forward) and forward > 10
    assert [c.number for c in state.finished] == list(range(13)), 'in the order of the journal'
    text = text_report(state, tmp_path / 'run')
    assert f'after {forward * 10 // 60} min' in text
    for form in (text, html_report(state)):
        assert not re.search(r'-\d+(\.\d+)? (s|min|h)\b', form), 'no negative duration'
    assert pareto_png(state) and convergence_png(state)


def test_without_jumps_it_is_the_time_between_the_first_and_the_last_record(tmp_path: Path) -> None:
    state = make_run(tmp_path / 'run').state
    assert state.updated_at is not None and state.started_at is not None
    assert state.elapsed_s == pytest.approx(state.updated_at - state.started_at, abs=1e-3)


def test_a_search_beside_such_a_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed, and limits, go by a clock that nobody sets."""
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setattr(time, 'time', Clock(1).time)
    config = make_config(engine='sequential', maxTrialNumber=3, maxTrialDuration='10m', maxExperimentDuration='1h')
    state = run_search(config, tmp_path / 'run', tell=lambda line: None)
    assert state.ended is not None and state.ended.reason == 'budget'
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 4
    for candidate in state.candidates.values():
        assert candidate.duration_s is not None and 0 <= candidate.duration_s < 600
        assert all(value >= 0 for name, value in candidate.metrics.items() if name.endswith('_seconds'))


def _records(tmp_path: Path) -> list[records.Record]:
    with Journal(tmp_path / 'run') as journal:
        return journal.records
