"""The tuner that nnictl runs: proposals, results and what is left of them after a crash."""
from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nni
import pytest

from syno_nni.errors import ConfigError, EngineError
from syno_nni.nas.mutable import KEEP
from syno_nni.run.journal import read_journal
from syno_nni.strategies.tuner import SynoTuner, check_trial_command

from ..testing import toy

ARGS: dict[str, Any] = {'model': {'name': 'resnet10t'}, 'strategy': {'name': 'evolution', 'classArgs': {'warm_up': 2}}}


@pytest.fixture(autouse=True)
def _toy_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setattr('syno_nni.search_spaces.backbone.backbone_space', lambda config, data: toy.model_space())
    monkeypatch.setenv('NNI_LOG_DIRECTORY', str(tmp_path / 'log'))


def _run(tuner: SynoTuner, parameter_id: int) -> dict[str, Any]:
    parameters = tuner.generate_parameters(parameter_id)
    tuner.receive_trial_result(parameter_id, parameters, toy.landscape({'operator': parameters['operator']}))
    tuner.trial_end(parameter_id, True)
    return parameters


def _state(tmp_path: Path) -> Any:
    return read_journal(tmp_path / 'syno' / 'journal.jsonl')


def test_parameters_are_flat_and_the_baseline_comes_first(tmp_path: Path) -> None:
    tuner = SynoTuner(**ARGS)
    first, second = _run(tuner, 0), _run(tuner, 1)
    assert first['operator'] == KEEP and first['id'] == 'baseline'
    assert second['operator'].startswith('out[')
    assert all(isinstance(value, str) for value in second.values())
    assert json.loads(second['payload'])['config']['model']['name'] == 'resnet10t'
    tuner._on_exit()
    state = _state(tmp_path)
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 2
    assert state.ended.reason == 'budget'


def test_failures_are_outcomes_and_the_end_of_the_space_is_said() -> None:
    tuner = SynoTuner(**ARGS)
    _run(tuner, 0)
    tuner.generate_parameters(1)
    tuner.trial_end(1, False)
    tuner.generate_parameters(2)
    tuner.receive_trial_result(2, {}, {'default': 0.0, 'failure': 'timeout', 'message': 'too slow'})
    tuner.trial_end(2, False)
    kinds = [c.error.kind for c in tuner._journal.state.operators]
    assert kinds == ['died', 'timeout']
    for n in range(3, 3 + len(toy.OPERATORS) - 2):
        _run(tuner, n)
    with pytest.raises(nni.NoMoreTrialError):
        tuner.generate_parameters(99)
    tuner._on_exit()


def test_a_baseline_that_fails_ends_the_experiment() -> None:
    tuner = SynoTuner(**ARGS)
    tuner.generate_parameters(0)
    with pytest.raises(EngineError, match='baseline'):
        tuner.trial_end(0, False)
    tuner._on_exit()


def test_resuming_loses_and_repeats_nothing(tmp_path: Path) -> None:
    tuner = SynoTuner(**ARGS)
    done = [_run(tuner, n)['id'] for n in range(3)]
    lost = tuner.generate_parameters(3)
    tuner._journal.close()  # what a kill leaves
    again = SynoTuner(**ARGS)
    # NNI tells of all that has finished, and runs again what had not.
    again.import_data([{'parameter': {'id': i, 'operator': KEEP}, 'value': 0.1} for i in done])
    following = _run(again, 0)['id']
    assert following not in [*done, lost['id']]
    assert _state(tmp_path).candidates[lost['id']].status == 'running'
    again.import_data([{'parameter': lost, 'value': toy.landscape({'operator': lost['operator']})}])
    again._on_exit()
    state = _state(tmp_path)
    assert state.candidates[lost['id']].status == 'succeeded'
    assert [c.attempts for c in state.candidates.values()] == [1] * 5


@pytest.mark.parametrize(('changes', 'message'), [
    ({'modle': {'name': 'resnet18'}}, "unknown key 'modle'; did you mean 'model'?"),
    ({'port': 8080}, 'give --port to nnictl'),
    ({'engine': 'local'}, 'trainingService'),
    ({'maxTrialNumber': 3}, 'top of the file'),
])
def test_bad_arguments_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match='tuner.classArgs') as raised:
        SynoTuner(**ARGS, **changes)
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_it_connects_before_torch_is_imported() -> None:
    code = 'import sys; import syno_nni.strategies.tuner; print("torch" in sys.modules, "nni.nas" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False'], 'NNI gives a tuner ten seconds'


def test_a_trial_command_that_cannot_run_is_said_before_the_first_trial(tmp_path: Path) -> None:
    def arguments(command: str, platform: str = 'local') -> list[str]:
        experiment = {'trialCommand': command, 'trainingService': {'platform': platform}}
        return ['-m', '--exp_params', base64.b64encode(json.dumps(experiment).encode()).decode()]

    with pytest.raises(ConfigError, match=r'there is no python in the PATH .* syno_nni.trial'):
        check_trial_command(arguments('python -m syno_nni.trial'), str(tmp_path))
    check_trial_command(arguments('python -m syno_nni.trial', 'remote'), str(tmp_path))
    check_trial_command(arguments(f'{sys.executable} -m syno_nni.trial'), str(tmp_path))
    for odd in ([], ['--exp_params'], ['--exp_params', 'x'], arguments('')):
        check_trial_command(odd, str(tmp_path))
