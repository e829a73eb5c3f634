"""Experiment files for ``nnictl create``: NNI's own keys at the top, the search under ``tuner.classArgs``.

NNI checks its keys itself, when the experiment starts; here they are checked before, together with ours and with the same
kind of message. It reads the file anew, as YAML 1.1: what that reads otherwise than it is meant here is refused.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from syno_nni.errors import ConfigError
from syno_nni.files import DESCRIPTION_BYTES, check_file, is_directory, is_file, show_path
from syno_nni.schema import Ambiguous, Flag, Section, SourceFloat, SourceInt, plain
from syno_nni.text import cell, did_you_mean

from .config import SearchConfig
from .wording import kind, one_line_of, show

CLASS_NAME = 'syno_nni.strategies.tuner.SynoTuner'
REGISTERED_NAME = 'Syno'
TRIAL_COMMAND = 'python -m syno_nni.trial'

_NNI_SAYS = {'experimentName': 'experimentName', 'maxTrialNumber': 'maxTrialNumber', 'engine': 'trainingService',
             'machineList': 'trainingService.machineList', 'nniManagerIp': 'nniManagerIp',
             'maxExperimentDuration': 'maxExperimentDuration', 'trialConcurrency': 'trialConcurrency'}
# Keys of our files that these files have at the top.
PLATFORMS = ('local', 'remote', 'openpai', 'aml', 'dlc', 'kubeflow', 'frameworkcontroller', 'adl')


def _as_nni_reads(value: Any) -> Any:
    """Text, unless YAML 1.1 reads something else."""
    if isinstance(value, (Ambiguous, SourceInt, SourceFloat)):
        raise ValueError('should be text; put quotes around it')
    return value


def _exact(value: Any) -> Any:
    if isinstance(value, Ambiguous):
        raise ValueError(f'should be a whole number; {value.why}')
    if isinstance(value, SourceInt):
        if not re.fullmatch(r'[-+]?(0|[1-9][0-9_]*)', value.source):
            raise ValueError('should be a whole number in plain digits')
        return int(value)
    return value


def _duration(value: Any) -> Any:
    wanted = "should be a duration such as 90, '90s', '10m', '1h' or '1d'"
    if isinstance(value, Ambiguous):
        raise ValueError(f'{wanted}; {value.why}')
    if isinstance(value, str) and re.fullmatch(r'\d{1,9}(\.\d{1,9})?\s*[smhd]', value, re.ASCII | re.IGNORECASE):
        return value if float(value[:-1]) > 0 else 0
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise ValueError(wanted)


_Text = Annotated[str, BeforeValidator(_as_nni_reads), Field(strict=True, min_length=1, max_length=10_000)]
_Whole = Annotated[int, BeforeValidator(_exact), Field(strict=True, ge=0, lt=2 ** 31)]
_Count = Annotated[int, BeforeValidator(_exact), Field(strict=True, ge=1, lt=2 ** 31)]
_Duration = Annotated[Annotated[int, Field(strict=True, ge=1, lt=2 ** 40)] | str, BeforeValidator(_duration)]
_Indices = Annotated[str, BeforeValidator(_as_nni_reads), Field(strict=True, pattern=r'^\d+(,\d+)*$')] | _Whole | list[_Whole]


class _Algorithm(Section):
    name: _Text | None = None
    class_name: _Text | None = None
    code_directory: _Text | None = None
    class_args: dict[str, Any] | None = None

    @model_validator(mode='after')
    def _one_of_two(self) -> _Algorithm:
        if (self.name is None) == (self.class_name is None):
            raise ValueError('wants either name or className')
        return self


class _Service(Section):
    """What every training service has; those of platforms that are not checked here have more."""
    model_config = ConfigDict(extra='allow')
    platform: Literal[PLATFORMS]  # type: ignore[valid-type]
    trial_command: _Text | None = None
    trial_code_directory: _Text | None = None
    trial_gpu_number: _Whole | None = None
    nni_manager_ip: _Text | None = None
    debug: Flag | None = None
    reuse_mode: Flag | None = None


class _Local(_Service):
    model_config = ConfigDict(extra='forbid')
    use_active_gpu: Flag | None = None
    max_trial_number_per_gpu: _Count = 1
    gpu_indices: _Indices | None = None
    reuse_mode: Flag = False


class _RemoteMachine(Section):
    host: _Text
    port: Annotated[_Count, Field(le=65535)] = 22
    user: _Text
    password: _Text | None = None
    ssh_key_file: _Text | None = '~/.ssh/id_rsa'
    ssh_passphrase: _Text | None = None
    use_active_gpu: Flag = False
    max_trial_number_per_gpu: _Count = 1
    gpu_indices: _Indices | None = None
    python_path: _Text | None = None


class _Remote(_Service):
    model_config = ConfigDict(extra='forbid')
    machine_list: Annotated[list[_RemoteMachine], Field(min_length=1)]
    reuse_mode: Flag = False


class _SharedStorage(Section):
    storage_type: Literal['NFS', 'AzureBlob']
    local_mount_point: _Text
    remote_mount_point: _Text
    local_mounted: Literal['usermount', 'nnimount', 'nomount']
    storage_account_name: _Text | None = None
    storage_account_key: _Text | None = None
    container_name: _Text | None = None
    nfs_server: _Text | None = None
    exported_directory: _Text | None = None


class _File(Section):
    """NNI's ExperimentConfig."""
    experiment_name: _Text | None = None
    experiment_type: Literal['hpo'] = 'hpo'
    search_space_file: _Text | None = None
    search_space: dict[str, Any] | None = None
    trial_command: _Text
    trial_code_directory: _Text = '.'
    trial_concurrency: _Count
    trial_gpu_number: _Whole | None = None
    max_experiment_duration: _Duration | None = None
    max_trial_number: _Count
    max_trial_duration: _Duration | None = None
    nni_manager_ip: _Text | None = None
    use_annotation: Flag = False
    debug: Flag = False
    log_level: Literal['fatal', 'error', 'warning', 'info', 'debug', 'trace'] | None = None
    experiment_working_directory: _Text = '~/nni-experiments'
    tuner_gpu_indices: _Indices | None = None
    tuner: _Algorithm
    assessor: _Algorithm | None = None
    advisor: None = None
    training_service: dict[str, Any]
    shared_storage: _SharedStorage | None = None

    @field_validator('search_space')
    @classmethod
    def _choices(cls, space: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, choice in (space or {}).items():
            if not isinstance(choice, Mapping) or set(choice) != {'_type', '_value'} or not isinstance(choice['_value'], list):
                raise ValueError(f'{show(name)} should be {{_type: choice, _value: [...]}}')
        return space

    @model_validator(mode='after')
    def _no_annotation(self) -> _File:
        if self.use_annotation:
            raise ValueError('useAnnotation: there is no code to annotate; leave it out')
        return self


_SERVICES: dict[str, type[_Service]] = {'local': _Local, 'remote': _Remote}


def tuner_config(class_args: Mapping[str, Any]) -> SearchConfig:
    """The search that ``tuner.classArgs`` describe.

    Raises:
        ConfigError: a key or value is wrong, or belongs to the top of the file.
    """
    if not isinstance(class_args, Mapping):
        raise ConfigError(f'tuner.classArgs: wants a mapping of keys to values, got {kind(class_args)}')
    for key, instead in {**_NNI_SAYS, 'trainingService': 'trainingService'}.items():
        if key in class_args:
            raise ConfigError(f'tuner.classArgs.{key}: NNI decides that; write {instead} at the top of the file')
    if 'port' in class_args:
        raise ConfigError('tuner.classArgs.port: NNI decides that; give --port to nnictl create')
    return SearchConfig.from_dict(class_args, 'tuner.classArgs')


def resolved(data: Any, source: str, folder: Path = Path()) -> dict[str, Any]:
    """A checked copy of a file for ``nnictl create``, with every default of ours filled in.

    Args:
        data: of the file.
        source: opens every message.
        folder: that of the file, which relative paths in it start from.

    Raises:
        ConfigError: something is wrong with it, in one line.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{source}: wants a mapping of keys to values, got {kind(data)}')
    _check_tuner(data, source)
    file = _checked(_File, data, source)
    service = dict(file.training_service)
    platform = service.get('platform')
    known = _SERVICES.get(platform, _Service) if isinstance(platform, str) else _Service
    _checked(known, service, f'{source}: trainingService')
    if 'syno_nni.trial' not in file.trial_command:
        raise ConfigError(f'{source}: trialCommand: should run {TRIAL_COMMAND}, got {show(file.trial_command)}')
    if file.search_space is None and file.search_space_file is None:
        raise ConfigError(f"{source}: key 'searchSpace' is missing, which NNI wants; write searchSpace: "
                          '{operator: {_type: choice, _value: [synthesized]}}')
    _check_paths(file, service, source, folder)
    try:
        ours = tuner_config(file.tuner.class_args or {}).to_dict()
        rest = {key: plain(value) for key, value in data.items() if key != 'tuner'}
        tuner = {key: plain(value) for key, value in data['tuner'].items() if key != 'classArgs'}
    except (ConfigError, ValueError) as error:
        raise ConfigError(f'{source}: {error}') from None
    for key in (*_NNI_SAYS, 'port'):
        del ours[key]
    # NNI wants a folder beside a className, though the class is found without it.
    place = {'codeDirectory': '.'} if 'className' in tuner else {}
    return {key: {**place, **tuner, 'classArgs': ours} if key == 'tuner' else rest[key] for key in data}


def _check_tuner(data: Mapping[str, Any], source: str) -> None:
    """First of all: whether it is such a file, or a stranger's."""
    tuner = data.get('tuner')
    if not isinstance(tuner, Mapping):
        if unknown := [key for key in data if key not in {field.alias for field in _File.model_fields.values()}]:
            known = [field.alias or '' for field in _File.model_fields.values()]
            raise ConfigError(f"{source}: unknown key '{cell(unknown[0], 80)}'; {did_you_mean(unknown[0], known)}")
        raise ConfigError(f"{source}: key 'tuner' is missing; write tuner: {{className: {CLASS_NAME}, classArgs: ...}}")
    named = tuner.get('className', tuner.get('name'))
    ours = tuner.get('className') == CLASS_NAME or str(tuner.get('name', '')).lower() == REGISTERED_NAME.lower()
    if named is not None and not ours:
        raise ConfigError(f'{source}: the tuner is {show(named)}; write tuner.className: '
                          f'{CLASS_NAME}, or tuner.name: {REGISTERED_NAME} after `nnictl algo register`')


def _checked(schema: Any, data: Mapping[str, Any], source: str) -> Any:
    try:
        return schema.model_validate(dict(data), by_name=False)
    except ValidationError as error:
        raise ConfigError(f'{source}: {one_line_of(error, schema)}') from None


def _check_paths(file: _File, service: Mapping[str, Any], source: str, folder: Path) -> None:
    folders = {'trialCodeDirectory': file.trial_code_directory, 'tuner.codeDirectory': file.tuner.code_directory,
               'trainingService.trialCodeDirectory': service.get('trialCodeDirectory'),
               'assessor.codeDirectory': file.assessor.code_directory if file.assessor else None}
    for key, name in folders.items():
        if name is not None and not is_directory(folder / Path(name).expanduser()):
            raise ConfigError(f'{source}: {key}: there is no directory {show_path(name)}')
    if file.search_space_file is not None:
        try:
            check_file(folder / Path(file.search_space_file).expanduser(), limit=DESCRIPTION_BYTES, error=ConfigError,
                       what='the search space')
        except ConfigError as error:
            raise ConfigError(f'{source}: searchSpaceFile: {error}') from None
    for machine in service.get('machineList') or ():
        key = machine.get('sshKeyFile', '~/.ssh/id_rsa')
        if machine.get('password') is None and (key is None or not is_file(folder / Path(key).expanduser())):
            raise ConfigError(f'{source}: trainingService.machineList: there is no SSH key {show_path(key)} for '
                              f'{cell(machine["host"], 80)}, and no password')
