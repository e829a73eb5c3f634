"""Every field of NNI's own configuration classes: what is right is taken, what is wrong is one line, and nothing is started."""
from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nni.experiment.config as nni_config
import pytest
import yaml
from nni.experiment.config.base import ConfigBase
from nni.experiment.config.training_services import __dict__ as services
from pydantic.alias_generators import to_camel

from syno_nni.cli.main import main
from syno_nni.cli.nnictl import resolve
from syno_nni.errors import ConfigError
from syno_nni.run.nnictl_file import resolved
from syno_nni.run.nnictl_schema import PLATFORMS

NFS = {'storageType': 'nfs', 'server': 's', 'path': '/p'}
ROLE = {'command': 'run', 'cpuNumber': 1, 'gpuNumber': 0, 'memorySize': '4 GB', 'dockerImage': 'i'}
KUBEFLOW_ROLE = {**ROLE, 'replicas': 1, 'codeDirectory': '.'}
PAI = {'host': 'h', 'username': 'u', 'token': 't', 'trialCpuNumber': 1, 'trialMemorySize': 512, 'storageConfigName': 's',
       'virtualCluster': 'v', 'localStorageMountPoint': '.', 'containerStorageMountPoint': '/m', 'trialGpuNumber': 0}
TEXTS = {'dlc': ('image', 'ecsSpec', 'region', 'workspaceId', 'nasDataSourceId', 'ossDataSourceId', 'accessKeyId',
                 'accessKeySecret', 'localStorageMountPoint', 'containerStorageMountPoint'),
         'aml': ('subscriptionId', 'resourceGroup', 'workspaceName', 'computeTarget')}
SERVICES: dict[str, dict[str, Any]] = {
    'local': {'useActiveGpu': False, 'maxTrialNumberPerGpu': 1, 'gpuIndices': [0, 1], 'reuseMode': False},
    'remote': {'reuseMode': False, 'machineList': [{
        'host': 'h', 'user': 'u', 'port': 22, 'password': 'p', 'sshKeyFile': 'k', 'sshPassphrase': 's', 'useActiveGpu': False,
        'maxTrialNumberPerGpu': 1, 'gpuIndices': '0,1', 'pythonPath': '/usr/bin'}]},
    'openpai': {**PAI, 'dockerImage': 'i', 'reuseMode': True, 'openpaiConfigFile': 'f.yml'},
    'aml': {**dict.fromkeys(TEXTS['aml'], 'x'), 'dockerImage': 'i', 'maxTrialNumberPerGpu': 1},
    'dlc': {**dict.fromkeys(TEXTS['dlc'], '.'), 'type': 'Worker', 'jobType': 'TFJob', 'podCount': 1},
    'kubeflow': {'operator': 'tf-operator', 'apiVersion': 'v1', 'storage': NFS, 'worker': KUBEFLOW_ROLE, 'ps': KUBEFLOW_ROLE,
                 'master': KUBEFLOW_ROLE, 'reuseMode': True, 'namespace': 'n'},
    'frameworkcontroller': {
        'storage': NFS, 'serviceAccountName': 'a', 'reuseMode': True, 'namespace': 'n', 'taskRoles': [{
            **ROLE, 'name': 'n', 'taskNumber': 1,
            'frameworkAttemptCompletionPolicy': {'minFailedTaskCount': 1, 'minSucceedTaskCount': -1}}]}}
COMMON = {'trialCommand': 'python -m syno_nni.trial', 'trialCodeDirectory': '.', 'trialGpuNumber': 0,
          'nniManagerIp': '127.0.0.1', 'debug': False}
FILE: dict[str, Any] = {
    **COMMON, 'experimentName': 'x', 'experimentType': 'hpo', 'searchSpaceFile': 'space.json', 'trialConcurrency': 1,
    'searchSpace': {'operator': {'_type': 'choice', '_value': ['synthesized']}}, 'maxExperimentDuration': '1h',
    'maxTrialNumber': 3, 'maxTrialDuration': 60, 'useAnnotation': False, 'logLevel': 'info', 'experimentWorkingDirectory': 'e',
    'tunerGpuIndices': 0, 'assessor': {'name': 'Medianstop', 'classArgs': {'start_step': 1}},
    'tuner': {'className': 'syno_nni.strategies.tuner.SynoTuner', 'codeDirectory': '.', 'classArgs': {
        'model': {'name': 'test_resnet'}, 'data': {'imageSize': 32}}},
    'sharedStorage': {'storageType': 'NFS', 'localMountPoint': '/m', 'remoteMountPoint': '/m', 'localMounted': 'nomount',
                      'nfsServer': 's', 'exportedDirectory': '/e'}}
AZURE = {'storageType': 'azureStorage', 'azureAccount': 'a', 'azureShare': 's', 'keyVaultName': 'n', 'keyVaultKey': 'k'}
BLOB = {'storageType': 'AzureBlob', 'localMountPoint': '/m', 'remoteMountPoint': '/m', 'localMounted': 'nomount',
        'storageAccountName': 'n', 'storageAccountKey': 'k', 'containerName': 'c'}
OTHERWISE: list[tuple[str, tuple[Any, ...], Any]] = [
    ('local', ('sharedStorage',), BLOB), ('kubeflow', ('trainingService', 'storage'), AZURE),
    ('frameworkcontroller', ('trainingService', 'storage'), AZURE), ('local', ('tuner',), {
        'name': 'Syno', 'classArgs': FILE['tuner']['classArgs']}),
    ('openpai', ('trainingService',), {'platform': 'openpai', **PAI, 'openpaiConfig': {'a': 1}})]
"""Valid values of the fields that exclude others."""


def file_for(platform: str) -> dict[str, Any]:
    """A valid file that names every field, but for those of :data:`OTHERWISE`."""
    return copy.deepcopy({**FILE, 'trainingService': {'platform': platform, **COMMON, **SERVICES[platform]}})


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


def fields_of(cls: type, data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The places of a file and NNI's type of each, by NNI's own classes."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        place = (*above, to_camel(field.name))
        yield place, hints[field.name]
        inner = data.get(place[-1])
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            for item in (part, *typing.get_args(part)):
                if isinstance(item, type) and issubclass(item, ConfigBase) and inner:
                    first = inner[0] if isinstance(inner, list) else inner
                    chosen = service_class(first['platform']) if 'platform' in first else item
                    yield from fields_of(chosen, first, (*place, 0) if isinstance(inner, list) else place)
                    break


def service_class(platform: str) -> type:
    return next(c for c in services.values() if isinstance(c, type) and getattr(c, 'platform', None) == platform)


def wrong_for(hint: Any) -> Iterator[Any]:
    """Values that are of no type of a hint, or of a type and never meant."""
    allowed = {item for item in (hint, *typing.get_args(hint)) if isinstance(item, type)}
    literal = typing.get_origin(hint) is typing.Literal
    if hint is typing.Any:
        yield from (3, 'x', [1], True, {'a': 3})
        return
    if int not in allowed:
        yield from (3, -1, 1e300)
    else:
        yield from (-2, 2 ** 70, 1.5, float('nan'))
    if bool not in allowed:
        yield True
    if not allowed & {str, Path}:
        yield from ('x', '')
    else:
        yield from ('', 'a\x1b[31m', '\u202e', 'x' * 20_000)
    if literal:
        yield 'nonsense'
    yield [[]]
    yield [{'no': 1}]
    yield {'no such key': {'x': 1}}


PLACES = list(dict.fromkeys((platform, place) for platform in PLATFORMS
                            for place, _ in fields_of(nni_config.ExperimentConfig, file_for(platform))
                            if platform == 'local' or place[0] == 'trainingService'))
OPEN = {('tuner', 'classArgs'), ('assessor', 'classArgs'), ('advisor',), ('trainingService', 'openpaiConfig'),
        ('tuner', 'name'), ('assessor', 'className'), ('assessor', 'codeDirectory'), ('trainingService', 'storage', 'storage')}
"""Not in every file: they exclude others, or hold whatever an algorithm takes."""


EXCLUDED = re.compile('azure|keyVault|storageAccount|containerName')
"""The fields of the storages in :data:`OTHERWISE`."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, where nothing can be started."""
    (tmp_path / 'space.json').write_text(json.dumps(FILE['searchSpace']))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('NNI_CONFIG_DIR', str(tmp_path / 'config'))

    def run(*_: object, **__: object) -> None:
        raise AssertionError('something was started')

    monkeypatch.setattr(subprocess, 'run', run)
    return tmp_path


def test_the_corpus_knows_every_platform_and_field_of_nnis() -> None:
    ours = {cls.platform for cls in services.values() if isinstance(cls, type) and hasattr(cls, 'platform')}
    assert ours == set(PLATFORMS) == set(SERVICES)
    for platform in PLATFORMS:
        full = file_for(platform)
        for place, _ in fields_of(nni_config.ExperimentConfig, full):
            inner: Any = full
            for key in place[:-1]:
                inner = inner[key]
            assert place[-1] in inner or place in OPEN or EXCLUDED.match(str(place[-1])), f'{platform}: no value for {place}'
    assert len(PLACES) > 150


@pytest.mark.parametrize('platform', PLATFORMS)
def test_a_file_with_every_field_is_taken(platform: str, folder: Path) -> None:
    (folder / 'f.yml').write_text(json.dumps(file_for(platform)))
    assert yaml.safe_load(resolve('f.yml'))['trainingService']['platform'] == platform
    for which, place, value in OTHERWISE:
        if which == platform:
            (folder / 'f.yml').write_text(json.dumps(with_value(file_for(platform), place, value)))
            resolve('f.yml')


@pytest.mark.parametrize('platform', PLATFORMS)
def test_a_wrong_value_anywhere_is_one_line_and_starts_nothing(platform: str, folder: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    full, bad, count = file_for(platform), [], 0
    for place, hint in fields_of(nni_config.ExperimentConfig, full):
        if (platform, place) not in PLACES or place in OPEN:
            continue
        for value in wrong_for(hint):
            count += 1
            data = with_value(full, place, value)
            if count % 8 == 0:  # of a file and by the command, which takes longer
                (folder / 'f.yml').write_text(json.dumps(data).replace('NaN', '.nan'))
                status = main(['nnictl', 'create', '--config', 'f.yml'])
                said = ''.join(capsys.readouterr()).removesuffix('\n').removeprefix('error: ')
            else:
                with pytest.raises(ConfigError) as caught:
                    resolved(data, 'f.yml', folder)
                status, said = 1, str(caught.value)
            if (status != 1 or not said.isprintable() or len(said) > 2000 or not said.startswith('f.yml')
                    or not any(str(key) in said for key in place if isinstance(key, str))):
                bad.append(f'{".".join(map(str, place))} = {value!r:.60}: {status} {said!r:.400}')
    assert count > 80
    assert not bad, '\n'.join(bad)


@pytest.mark.parametrize(('path', 'value', 'says'), [
    (('trainingService', 'maxTrialNumberPerGpu'), 2, 'NNI refuses it: .*max_trial_number_per_gpu'),
    (('trialGpuNumber',), 0, ''),
    (('assessor', 'name'), 'Medianstopp', "no assessor 'Medianstopp'; did you mean 'Medianstop'"),
    (('searchSpaceFile',), 'aliases.yml', 'aliases'), (('searchSpaceFile',), 'list.yml', 'a mapping of keys'),
    (('searchSpaceFile',), 'other.yml', '_type: choice')])
def test_what_only_nni_or_another_file_can_tell(path: tuple[str, ...], value: Any, says: str, folder: Path) -> None:
    (folder / 'aliases.yml').write_text('a: &a [x]\nb: [*a, *a]\n')
    (folder / 'list.yml').write_text('[1, 2]')
    (folder / 'other.yml').write_text('{x: {_type: uniform, _value: [0, 1]}}')
    (folder / 'f.yml').write_text(json.dumps(with_value(file_for('local'), path, value)))
    if not says:
        resolve('f.yml')
        return
    with pytest.raises(ConfigError, match=says) as caught:
        resolve('f.yml')
    assert str(caught.value).startswith('f.yml: ') and '\n' not in str(caught.value)


@pytest.mark.parametrize('words', [
    ['-cbad.yml'], ['-c', 'good.yml', '--config', 'bad.yml'], ['--config=good.yml', '-c=bad.yml'], ['--conf', 'bad.yml'],
    ['--config', 'good.yml', '--conf', 'bad.yml'], ['--config', 'good.yml', '--port', 'x'], ['--config', 'good.yml', 'x'],
    ['--config', 'good.yml', '--port', '70000'], ['--config']])
def test_the_file_that_is_checked_is_the_one_that_nni_takes(words: list[str], folder: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (folder / 'good.yml').write_text(json.dumps(file_for('local')))
    (folder / 'bad.yml').write_text(json.dumps({**file_for('local'), 'noSuchKey': 1}))
    assert main(['nnictl', 'create', *words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith('error: ') and said.err.count('\n') == 1 and not said.out
