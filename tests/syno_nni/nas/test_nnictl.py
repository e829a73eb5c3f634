"""A whole experiment that NNI's own command line starts: file, tuner, trials, web UI, journal."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from syno_nni.nas.manager import end_process_tree, free_port
from syno_nni.nas.patches import token_in
from syno_nni.run.journal import read_journal

from ...testing.browser import CHROMIUM, look_at_web_ui, rest_needs_chromium
from ...testing.nnictl import get

FILE: dict[str, Any] = {
    'experimentName': 'two operators', 'searchSpace': {'operator': {'_type': 'choice', '_value': ['synthesized']}},
    'trialCommand': f'{sys.executable} -m syno_nni.trial', 'trialConcurrency': 2, 'maxTrialNumber': 2,
    'tuner': {'name': 'Syno', 'classArgs': {
        'model': {'name': 'resnet10t', 'channels': [8, 8, 8, 8], 'stem_width': 8},
        'data': {'imageSize': 32, 'trainSamples': 128, 'valSamples': 64, 'batchSize': 32},
        'space': {'limits': {'steps': 6, 'min_weight': 1}, 'macsRatio': [0.01, 2], 'variables': {'g': 2}},
        'evaluation': {'epochs': 2}, 'latency': {'warmup': 1, 'minRounds': 2, 'seconds': 0.01}}},
    'trainingService': {'platform': 'local'},
}
META = Path(__file__).parents[3] / 'examples' / 'algorithm.yml'


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """NNI's files go to a home of their own; whatever is left is ended."""
    environment = {**os.environ, 'HOME': str(tmp_path), 'NNI_CONFIG_DIR': str(tmp_path / 'config'), 'TMPDIR': str(tmp_path),
                   'OMP_NUM_THREADS': '1'}
    yield environment
    for process in psutil.process_iter(['environ']):
        if (process.info['environ'] or {}).get('NNI_CONFIG_DIR') == environment['NNI_CONFIG_DIR']:
            end_process_tree(process.pid)


def _nnictl(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, '-m', 'syno_nni.cli.main', 'nnictl', *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.nni
@pytest.mark.slow
def test_nnictl_runs_a_search(tmp_path: Path, environment: dict[str, str]) -> None:
    port = free_port()
    (tmp_path / 'search.yml').write_text(yaml.safe_dump(FILE))
    assert 'Syno registered' in _nnictl(environment, 'algo', 'register', '--meta', str(META))
    _nnictl(environment, 'create', '--config', str(tmp_path / 'search.yml'), '--port', str(port))
    addresses = {c.laddr.ip for c in psutil.net_connections('tcp') if c.status == 'LISTEN' and c.laddr.port == port}
    assert addresses == {'127.0.0.1'}
    (root,) = (path for path in (tmp_path / 'nni-experiments').iterdir() if path.is_dir() and not path.is_symlink())
    experiment, token = root.name, token_in(root)

    def _get(port: int, path: str) -> Any:
        return get(port, path, token)

    deadline = time.monotonic() + 150
    while (status := _get(port, 'check-status')['status']) not in ('DONE', 'ERROR', 'STOPPED', 'TUNER_NO_MORE_TRIAL'):
        assert time.monotonic() < deadline, (status, _get(port, 'trial-jobs'))
        time.sleep(0.5)
    assert _get(port, 'experiment')['id'] == experiment
    trials = _get(port, 'trial-jobs')
    logs = '\n'.join(path.read_text()[-3000:] for path in root.rglob('*')
                     if path.name in ('trial.stderr', 'dispatcher.log'))
    assert [t['status'] for t in trials] == ['SUCCEEDED'] * 2, logs
    state = read_journal(root / 'syno' / 'journal.jsonl')
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 2, logs
    for trial in trials:
        parameters = json.loads(trial['hyperParameters'][0])['parameters']
        reported = json.loads(json.loads(trial['finalMetricData'][-1]['data']))
        assert state.candidates[parameters['id']].metrics['params'] == reported['params'], 'parameters were swapped'
    operator = state.operators[0]
    if CHROMIUM:
        look_at_web_ui(f'http://localhost:{port}/{token}', tmp_path / 'screenshots', 'two operators', operator.formula)
    _nnictl(environment, 'stop', experiment)
    deadline = time.monotonic() + 30
    while any(c.laddr.port == port and c.status == 'LISTEN' for c in psutil.net_connections('tcp')):
        assert time.monotonic() < deadline, 'the manager is still there'
        time.sleep(0.2)
    rest_needs_chromium('the web UI')
