"""kill -9 at random moments, again and again: nothing is lost or done twice, and the search is that of one never killed."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from syno_nni.data.datasets import load_data
from syno_nni.nas.manager import free_port
from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.journal import Journal
from syno_nni.run.records import OutcomeKind
from syno_nni.search_spaces.backbone import backbone_space
from syno_nni.strategies import strategy_of
from syno_nni.testing.strategies import check_replay
from syno_nni.testing.toy import ToySpace

from ...testing.searching import make_config

PROGRAM = Path(__file__).parents[2] / 'testing' / 'kill_loop.py'
ENGINES = ['sequential', pytest.param('local', marks=pytest.mark.nni)]


def _kill(config: SearchConfig, run_dir: Path, kills: int, what: str, choices: Any) -> None:
    program = subprocess.run(
        [sys.executable, PROGRAM, run_dir, json.dumps(config.to_dict()), str(kills), '5', what], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert program.returncode == 0, program.stdout[-3000:]
    assert program.stdout.count('killed\n') == kills
    with Journal(run_dir) as journal:
        state, records = journal.state, journal.records
    assert state.sessions == kills + 1 and state.ended is not None and state.ended.reason == 'budget'
    assert len(state.finished) == len(state.candidates) == config.max_trial_number + 1
    lost = [t for t in state.operators if t.outcome is not None and t.outcome.kind == OutcomeKind.LOST]
    assert all(t.attempts >= 3 for t in lost) and not (lost and config.engine == 'local')
    # Every kill costs what was in flight, and no more.
    assert sum(t.attempts for t in state.candidates.values()) <= len(state.candidates) + kills
    warm_up = int(config.strategy.class_args.get('warm_up', 6))  # type: ignore[arg-type]
    assert len(state.succeeded) > warm_up, 'past the random samples of the beginning'
    check_replay(strategy_of(config), choices, records)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('engine', ENGINES)
def test_ten_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: ToySpace())
    config = make_config(engine=engine, port=free_port(), maxTrialNumber=16,
                         strategy={'name': 'mcts' if engine == 'sequential' else 'evolution', 'seed': 3})
    choices = backbone_space(config, load_data(config.data)).simplify()
    _kill(config, tmp_path / 'run', 10, 'toy', choices)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize('engine', ENGINES)
def test_fifty_kills_of_a_real_search(tmp_path: Path, engine: str) -> None:
    quickstart = load_config(Path(__file__).parents[3] / 'examples' / 'scratch.yml').to_dict()
    config = SearchConfig.from_dict({
        **quickstart, 'engine': engine, 'port': free_port(), 'maxTrialNumber': 60,
        'data': {**quickstart['data'], 'trainSamples': 96, 'valSamples': 64},
        'evaluation': {**quickstart['evaluation'], 'epochs': 1},
        'latency': {**quickstart['latency'], 'seconds': 0.05, 'minRounds': 3, 'warmup': 1}})
    choices = backbone_space(config, load_data(config.data)).simplify()
    _kill(config, tmp_path / 'run', 50, 'real', choices)
