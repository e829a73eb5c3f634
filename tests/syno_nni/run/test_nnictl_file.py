"""Files for nnictl are checked as ours are."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from syno_nni.cli.main import main
from syno_nni.errors import ConfigError
from syno_nni.run.config import load_config
from syno_nni.run.nnictl_file import resolved, tuner_config

EXAMPLES = Path(__file__).parents[3] / 'examples'
EXAMPLE = yaml.safe_load((EXAMPLES / 'nnictl.yml').read_text())


def _changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(EXAMPLE)
    *sections, key = path.split('.')
    section = data
    for name in sections:
        section = section[name]
    if value is None:
        del section[key]
    else:
        section[key] = value
    return data


def test_the_example_trains_from_scratch() -> None:
    scratch = load_config(Path(__file__).parents[3] / 'examples' / 'scratch.yml').replace(
        evaluation={**EXAMPLE['tuner']['classArgs']['evaluation'], 'mode': 'auto'})
    assert tuner_config(EXAMPLE['tuner']['classArgs']).identity() | {'experimentName': ''} == (
        scratch.identity() | {'experimentName': ''})


def test_a_search_from_weights_is_none_of_nnictls() -> None:
    arguments = EXAMPLE['tuner']['classArgs']
    with pytest.raises(ConfigError, match='is run by syno-nni search'):
        tuner_config({**arguments, 'evaluation': {**arguments['evaluation'], 'mode': 'retrofit'}})


@pytest.mark.parametrize(('path', 'value', 'message'), [
    ('tuner.classArgs.evaluation.epoch', 3, "unknown key 'evaluation.epoch'; did you mean 'epochs'?"),
    ('tuner.classArgs.objective.speedupWeight', 'much', 'objective.speedupWeight'),
    ('trialConcurency', 1, "unknown key 'trialConcurency'; did you mean 'trialConcurrency'?"),
    ('tuner.classarg', {}, "unknown key 'tuner.classarg'; did you mean 'classArgs'?"),
    ('tuner', None, "key 'tuner' is missing"),
    ('trainingService', None, "key 'trainingService' is missing"),
    ('trialCommand', 'python mnist.py', 'should run python -m syno_nni.trial'),
    ('tuner.className', 'my.Tuner', 'syno_nni.strategies.tuner.SynoTuner'),
    ('searchSpace', None, "key 'searchSpace' is missing"),
])
def test_mistakes_are_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolved(_changed(path, value), 'my.yml')
    assert message in str(raised.value) and str(raised.value).startswith('my.yml') and '\n' not in str(raised.value)


WRONG: list[tuple[str, Any]] = [
    ('experimentName', 3), ('experimentName', ['a']), ('experimentType', 'nas'), ('searchSpace', 3),
    ('searchSpace', {'operator': 3}),
    ('searchSpace', {'operator': {'_type': 'choice'}}), ('searchSpaceFile', '/no/such'), ('searchSpaceFile', 3),
    ('searchSpaceFile', '/dev/zero'), ('trialCommand', 3), ('trialCommand', ''), ('trialCodeDirectory', '/no/such'),
    ('trialCodeDirectory', 3), ('trialCodeDirectory', 'x' * 5000), ('trialCodeDirectory', 'a\0b'), ('trialConcurrency', 0),
    ('trialConcurrency', 'two'), ('trialConcurrency', 1.5), ('trialConcurrency', True), ('trialGpuNumber', -1),
    ('trialGpuNumber', 'x'), ('maxExperimentDuration', 'x'), ('maxExperimentDuration', '5 weeks'),
    ('maxExperimentDuration', -1),
    ('maxExperimentDuration', '0s'), ('maxTrialNumber', 0), ('maxTrialNumber', '12'), ('maxTrialNumber', 1e300),
    ('maxTrialDuration', 'x'), ('maxTrialDuration', 1.5), ('maxTrialDuration', '90'), ('maxTrialDuration', [1]),
    ('nniManagerIp', 3), ('useAnnotation', True), ('useAnnotation', 'x'), ('debug', 3), ('debug', 'true'), ('logLevel', 3),
    ('logLevel', 'loud'), ('experimentWorkingDirectory', 3), ('tunerGpuIndices', 'a'), ('tunerGpuIndices', -1),
    ('tunerGpuIndices', [-1]), ('assessor', 3), ('assessor', {'name': 3}), ('assessor', {'nam': 'x'}), ('assessor', {}),
    ('advisor', {'name': 'x'}), ('trainingService', 3), ('trainingService', []), ('trainingService', {}),
    ('trainingService', 'local'),
    ('trainingService', {'platform': 'lokal'}), ('trainingService', {'platform': 3}),
    ('trainingService', {'platform': ['local']}),
    ('trainingService', {'platform': 'local', 'useActiveGpu': 'x'}), ('trainingService', {'platform': 'local', 'gpus': 3}),
    ('trainingService', {'platform': 'local', 'maxTrialNumberPerGpu': 0}), ('trainingService', {'platform': 'remote'}),
    ('trainingService', {'platform': 'local', 'trialCodeDirectory': '/no/such'}),
    ('trainingService', {'platform': 'remote', 'machineList': []}),
    ('trainingService', {'platform': 'remote', 'machineList': [3]}),
    ('trainingService', {'platform': 'remote', 'machineList': [{'host': 'h', 'user': 'u', 'sshKeyFile': '/no/such'}]}),
    ('trainingService', {'platform': 'remote', 'machineList': [{'host': 'h', 'user': 'u', 'port': 70000}]}),
    ('trainingService', {'platform': 'remote', 'machineList': [{'host': 'a b', 'user': 'u', 'password': 'p'}]}),
    ('trainingService', {'platform': 'adl'}), ('trainingService', {'platform': 'openpai', 'host': 'x'}),
    ('trainingService', {'platform': 'local', 'trialCommand': 'python mnist.py'}), ('nniManagerIp', 'my address'),
    ('trainingService', {'platform': 'local', 'gpuIndices': [0, 0]}), ('tunerGpuIndices', '1,01'),
    ('assessor', {'className': 'os.system', 'codeDirectory': '.'}), ('experimentName', 'a\x1b[31m'),
    ('searchSpace', {'operator': {'_type': 'uniform', '_value': [0, 1]}}),
    ('searchSpace', {'a': {'_type': 'choice', '_value': []}}),
    ('sharedStorage', {'storageType': 'NFS', 'localMountPoint': 'a', 'remoteMountPoint': 'b', 'localMounted': 'nomount'}),
    ('sharedStorage', 3), ('sharedStorage', {'storageType': 'disk'}), ('tuner', 3), ('tuner.name', 3), ('tuner.classArgs', 3),
    ('tuner.classArgs', []), ('tuner.codeDirectory', '/no/such'), ('tuner.codeDirectory', 3)]


@pytest.mark.parametrize(('path', 'value'), WRONG)
def test_every_key_of_nnis_has_its_type(path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        resolved(_changed(path, value), 'my.yml')
    text = str(raised.value)
    assert text.startswith('my.yml') and '\n' not in text and len(text) < 1500
    assert path.partition('.')[0] in text


@pytest.mark.parametrize(('path', 'value'), [
    ('maxTrialDuration', '1.5h'), ('maxTrialDuration', 90), ('tunerGpuIndices', '0,1'), ('tunerGpuIndices', [0]),
    ('logLevel', 'debug'),
    ('trainingService', {'platform': 'local', 'useActiveGpu': False, 'gpuIndices': 0}), ('debug', True),
    ('trainingService', {'platform': 'remote', 'machineList': [{'host': 'h', 'user': 'u', 'password': 'p'}]}),
    ('assessor', {'name': 'Medianstop', 'classArgs': {'optimize_mode': 'maximize'}})])
def test_what_nni_takes_is_taken(path: str, value: Any) -> None:
    assert resolved(_changed(path, value), 'my.yml')[path] == value


@pytest.mark.parametrize('line',
                         ['maxTrialDuration: 1:30', 'maxTrialNumber: 1e1', 'maxTrialNumber: 010', 'experimentName: 1.10',
                                  'experimentName: no', 'nniManagerIp: 2024-01-01', 'maxTrialNumber: 0o17'])
def test_what_nni_would_read_otherwise_is_refused(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = line.partition(':')[0]
    lines = (EXAMPLES / 'nnictl.yml').read_text().splitlines(keepends=True)
    rest = ''.join(old for old in lines if not old.startswith(f'{key}:'))
    (tmp_path / 'my.yml').write_text(f'{rest}{line}\n')
    assert main(['search', str(tmp_path / 'my.yml'), '--dry-run']) == 1
    assert f'my.yml: {key}: should be' in capsys.readouterr().err


def test_dry_run_prints_every_default_and_search_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['search', str(EXAMPLES / 'nnictl.yml'), '--dry-run']) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown['tuner']['classArgs']['evaluation']['weightDecay'] == 0.01
    assert resolved(shown, 'again') == shown
    assert main(['search', str(EXAMPLES / 'nnictl.yml')]) == 1
    assert 'this file is for nnictl: syno-nni nnictl create --config' in capsys.readouterr().err


def test_nnictl_checks_before_it_starts_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'bad.yml').write_text(yaml.safe_dump(_changed('maxTrailNumber', 3)))
    assert main(['nnictl', 'create', '--config', str(tmp_path / 'bad.yml')]) == 1
    assert "did you mean 'maxTrialNumber'?" in capsys.readouterr().err
    assert main(['nnictl', 'create']) == 1
    assert '--config FILE.yml is missing' in capsys.readouterr().err
