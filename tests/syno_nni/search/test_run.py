"""Whole searches: both engines, killing, interrupting, resuming, and input that cannot work."""
from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from syno_nni.errors import ConfigError, EngineError, JournalError, SlotError, SynoError
from syno_nni.nas.manager import end_process_tree, free_port
from syno_nni.run.journal import read_journal
from syno_nni.run.records import Finished, Submitted
from syno_nni.run.state import RunState
from syno_nni.search.run import run_search, strategy_of

from ...testing import toy
from ...testing.browser import CHROMIUM, look_at_web_ui, rest_needs_chromium
from ...testing.searching import make_config

PROGRAM = Path(__file__).parents[2] / 'testing' / 'searching.py'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the search program; whatever it leaves is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(mode: str, engine: str = 'sequential', port: int = 1, trials: int = 4, seconds: float = 0.3,
              ) -> subprocess.Popen[str]:
        with (tmp_path / 'out.txt').open('a') as out:
            started.append(subprocess.Popen(
                [sys.executable, PROGRAM, tmp_path / 'run', mode, engine, str(port), str(trials), str(seconds)],
                stdout=out, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield begin
    for process in started:
        end_process_tree(process.pid)


def _state(tmp_path: Path) -> RunState:
    path = tmp_path / 'run' / 'journal.jsonl'
    return read_journal(path) if path.exists() else RunState()


def _results(state: RunState) -> list[tuple[Any, ...]]:
    return [(c.number, c.id, c.status, c.metrics.get('default')) for c in state.operators]


def _wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.1)


# --- the sequential engine -------------------------------------------------------------------------------------------

def test_kill_and_resume_lose_and_repeat_nothing(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 ) -> None:
    randomness = random.Random(7)
    done: list[tuple[Any, ...]] = []
    for attempt in range(2):
        process = start('resume' if attempt else 'new')
        _wait_for(lambda n=attempt + 1: len(_state(tmp_path).candidates) > n)
        time.sleep(randomness.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, done = done, [r for r in _results(_state(tmp_path)) if r[2] == 'succeeded']
        assert before == done[:len(before)], 'what is finished stays'
    assert start('resume').wait(90) == 0
    state = _state(tmp_path)
    assert state.sessions == 3
    assert sum(c.attempts for c in state.candidates.values()) <= 5 + 2, 'only what was in flight is done again'
    # What a search without any break would have done.
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    strategy = strategy_of(make_config(engine='sequential', maxTrialNumber=4))
    strategy(toy.model_space(), toy.ToyEngine(toy.landscape))
    assert _results(state) == [(o.candidate.number, o.candidate.id, 'succeeded', o.reward)
                               for o in strategy.history if not o.candidate.is_baseline]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=str)
def test_signals_end_it_in_good_order(start: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = start('new', seconds=5)
    _wait_for(lambda: 'baseline' in _state(tmp_path).candidates)
    process.send_signal(number)
    assert process.wait(30) != 0
    state = _state(tmp_path)
    assert state.ended.reason == 'interrupted'
    assert state.candidates['baseline'].status == 'waiting', 'it was not its fault'
    assert (tmp_path / 'run' / 'run.lock').read_text() == ''


def test_a_failing_candidate_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    calls: list[Any] = []

    def metrics(self: Any, model: Any) -> dict[str, float]:
        calls.append(model)
        if len(calls) == 2:
            raise MemoryError('no room')
        return {'default': 1.0, 'accuracy': 0.5, 'latency_ms': 1.0}

    monkeypatch.setattr('syno_nni.nas.evaluator.OperatorEvaluator.metrics', metrics)
    monkeypatch.setattr('syno_nni.nas.evaluator.OperatorEvaluator.test', lambda self, model: {'accuracy': 0.4})
    lines: list[str] = []
    state = run_search(make_config(engine='sequential', maxTrialNumber=3), tmp_path / 'run', tell=lines.append)
    assert [c.status for c in state.operators] == ['failed', 'succeeded', 'succeeded']
    assert state.operators[0].error.kind == 'exception'
    assert 'MemoryError: no room' in state.operators[0].error.message
    assert state.baseline.test_metrics == state.best.test_metrics == {'accuracy': 0.4}
    assert state.ended.reason == 'budget'
    assert any('digits' in line for line in lines)


# --- NNI's local training service ------------------------------------------------------------------------------------

@pytest.mark.nni
@pytest.mark.slow
def test_a_real_experiment_with_trials_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials at a time on real data: parameters are not mixed up, a person sees in the web UI what there is to see, and
    nothing is left behind."""
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setenv('TMPDIR', str(tmp_path))  # a lock of its own: measurements elsewhere do not matter here
    port, addresses = free_port(), []
    looks: list[str] = []
    config = make_config(engine='local', port=port, maxTrialNumber=2, trialConcurrency=2, evaluation={'epochs': 2})

    lines: list[str] = []

    def web_ui() -> str:
        (url,) = [line.removeprefix('NNI web UI: ') for line in lines if line.startswith('NNI web UI: ')]
        assert re.fullmatch(rf'http://localhost:{port}/[0-9a-f]{{32}}/oview', url)
        return url.removesuffix('/oview')

    def listen(record: Any, state: RunState) -> None:
        if isinstance(record, Submitted):
            addresses.extend(c.laddr for c in psutil.net_connections('tcp') if c.status == 'LISTEN'
                             and c.laddr.port == port)
        if isinstance(record, Finished) and len(state.operators) == len(state.succeeded) == 2 and CHROMIUM:
            try:
                look_at_web_ui(web_ui(), tmp_path / 'screenshots', 'search', state.succeeded[0].formula)
                looks.append('all is there')
            except BaseException as error:  # of a listener, they are logged only
                looks.append(repr(error))
                raise

    state = run_search(config, tmp_path / 'run', listener=listen, tell=lines.append)
    assert looks == (['all is there'] if CHROMIUM else [])
    assert web_ui()
    assert {a.ip for a in addresses} == {'127.0.0.1'}
    assert state.ended.reason == 'budget'
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 3
    baseline = state.baseline.metrics
    assert {'default', 'accuracy', 'latency_ms', 'baseline_latency_ms', 'speedup', 'macs', 'params'} <= baseline.keys()
    from nni.nas.space import model_context

    from syno_nni.nas.profiler import count_params
    from syno_nni.search_spaces.backbone import BackboneSpace
    for candidate in state.candidates.values():
        with model_context(candidate.sample):
            model = BackboneSpace('resnet10t', [1, 3, 32, 32], {}, slots={'kinds': ['conv3x3']}, num_classes=10,
                                  **config.model.kwargs)
        assert candidate.metrics['params'] == count_params(model), 'measured what it is recorded for'
    assert state.best.test_metrics
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    with socket.socket() as probe:
        assert probe.connect_ex(('127.0.0.1', port)) != 0
    rest_needs_chromium('the web UI')


def _descendants(pid: int, word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if word in ' '.join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.nni
@pytest.mark.slow
def test_trial_manager_and_search_are_killed_in_turn(start: Any, tmp_path: Path) -> None:
    """kill -9 of each: nothing that finished is lost or done again, and no process or port is left."""
    randomness, port = random.Random(11), free_port()
    process = start('new', 'local', port, trials=2, seconds=1)
    _wait_for(lambda: 'baseline' in _state(tmp_path).candidates)
    _wait_for(lambda: len(_state(tmp_path).candidates) > 1)  # the first operator
    _wait_for(lambda: _descendants(process.pid, 'syno_nni.trial'))
    time.sleep(randomness.uniform(0, 1))
    for trial in _descendants(process.pid, 'syno_nni.trial'):
        trial.kill()
    _wait_for(lambda: _state(tmp_path).failed)
    assert _state(tmp_path).failed[0].error.kind == 'died'

    _wait_for(lambda: len(_state(tmp_path).candidates) > 2)  # the second one
    time.sleep(randomness.uniform(0, 1))
    tree = psutil.Process(process.pid).children(recursive=True)
    (manager,) = _descendants(process.pid, 'main.js')[:1]
    manager.kill()
    assert process.wait(60) != 0, 'a search without its manager ends'
    assert "NNI's manager" in (tmp_path / 'out.txt').read_text()
    _wait_for(lambda: _gone(tree), 30)
    before = _results(_state(tmp_path))

    process = start('resume', 'local', port, trials=2, seconds=1)
    _wait_for(lambda: _state(tmp_path).sessions == 2 and _descendants(process.pid, 'main.js'))
    tree = psutil.Process(process.pid).children(recursive=True)
    time.sleep(randomness.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: _gone(tree), 30)

    assert start('resume', 'local', port, trials=2, seconds=1).wait(90) == 0
    state = _state(tmp_path)
    after = _results(state)
    assert [r for r in before if r[2] in ('succeeded', 'failed')] == after[:sum(
        r[2] in ('succeeded', 'failed') for r in before)], 'what was finished stays as it was'
    assert [r[2] for r in after] == ['failed', 'succeeded']
    assert [c.attempts for c in state.operators][0] == 1 and state.candidates['baseline'].attempts == 1


# --- what cannot work ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('changes', 'error', 'message'), [
    ({'model': {'name': 'resnet99'}}, ConfigError, "timm has no model 'resnet99'; did you mean"),
    ({'model': {'name': 'resnet10t', 'colour': 'red'}}, ConfigError, 'colour'),
    ({'slots': {'kinds': ['conv1d']}}, SlotError, 'has no slot'),
    ({'strategy': {'name': 'radnom'}}, ConfigError, "did you mean 'random'"),
    ({'space': {'preset': 'conv3d'}}, SynoError, 'conv3d'),
    ({'latency': {'imageSize': 64}}, ConfigError, 'latency.imageSize'),
])
def test_bad_input_is_one_line_and_changes_nothing(tmp_path: Path, changes: dict[str, Any], error: type[SynoError],
                                                   message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        run_search(make_config(engine='sequential', **changes), tmp_path / 'run', tell=lambda line: None)
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'run').exists()


def test_a_port_in_use_is_found_before_anything_is_changed(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        with pytest.raises(EngineError, match='port'):
            run_search(make_config(engine='local', port=server.getsockname()[1]), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_resuming_says_where_it_is_not_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from syno_nni.run.directory import open_run
    from syno_nni.search.run import _other_order
    said = []
    for number, changes in enumerate(({'engine': 'sequential', 'trialConcurrency': 4}, {'engine': 'local'},
                                      {'engine': 'local', 'trialConcurrency': 2}, {'engine': 'local', 'trialConcurrency': 2})):
        with open_run(make_config(**changes), tmp_path / 'run', resume=number > 0) as journal:
            said.append(_other_order(journal))
    assert [line is None for line in said] == [True, True, False, True]
    assert said[2] == 'trials at a time: 1 -> 2; what follows differs from an uninterrupted search'


def test_another_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setattr('syno_nni.nas.evaluator.OperatorEvaluator.metrics', lambda self, model: {'default': 1.0})
    monkeypatch.setattr('syno_nni.nas.evaluator.OperatorEvaluator.test', lambda self, model: {'accuracy': 0.4})
    quiet = {'tell': lambda line: None}
    run_search(make_config(engine='sequential', maxTrialNumber=1), tmp_path / 'run', **quiet)
    before = (tmp_path / 'run' / 'journal.jsonl').read_bytes()
    other = make_config(engine='sequential', maxTrialNumber=1, evaluation={'epochs': 9})
    with pytest.raises(JournalError, match='epochs'):
        run_search(other, tmp_path / 'run', resume=True, **quiet)
    with pytest.raises(JournalError, match='resume'):
        run_search(make_config(engine='sequential', maxTrialNumber=1), tmp_path / 'run', **quiet)
    assert (tmp_path / 'run' / 'journal.jsonl').read_bytes() == before
    state = run_search(make_config(engine='sequential', maxTrialNumber=2), tmp_path / 'run', resume=True, **quiet)
    assert len(state.operators) == 2
    assert Counter(c.status for c in state.candidates.values()) == {'succeeded': 3}
