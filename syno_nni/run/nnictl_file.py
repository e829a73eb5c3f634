"""Experiment files for ``nnictl create``: NNI's own keys at the top, the search under ``tuner.classArgs``.

NNI checks its keys itself, when the experiment starts; here they are checked before, together with ours and with the same
kind of message (:mod:`.nnictl_schema`).
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from syno_nni.errors import ConfigError
from syno_nni.files import check_path, is_directory, is_file, show_path
from syno_nni.schema import plain
from syno_nni.text import cell, did_you_mean

from .config import SearchConfig
from .nnictl_schema import SERVICES, AnyService, File, check_space
from .wording import kind, one_line_of, show
from .yaml_file import load_yaml

CLASS_NAME = 'syno_nni.strategies.tuner.SynoTuner'
REGISTERED_NAME = 'Syno'
TRIAL_COMMAND = 'python -m syno_nni.trial'

_NNI_SAYS = {'experimentName': 'experimentName', 'maxTrialNumber': 'maxTrialNumber', 'engine': 'trainingService',
             'machineList': 'trainingService.machineList', 'nniManagerIp': 'nniManagerIp',
             'maxExperimentDuration': 'maxExperimentDuration', 'trialConcurrency': 'trialConcurrency'}
# Keys of our files that these files have at the top.


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
    config = SearchConfig.from_dict(class_args, 'tuner.classArgs')
    if config.retrofits:
        raise ConfigError('tuner.classArgs.evaluation.mode: a search from the weights of a model (retrofit) is run by syno-nni '
                          'search, which measures operators between trials; write mode: scratch, or use syno-nni search')
    return config


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
    file = _checked(File, data, source)
    service = dict(file.training_service)
    platform = service.get('platform')
    known = SERVICES.get(platform, AnyService) if isinstance(platform, str) else AnyService
    _checked(known, service, f'{source}: trainingService')
    for key, command in (('trialCommand', file.trial_command), ('trainingService.trialCommand', service.get('trialCommand'))):
        if command is not None and 'syno_nni.trial' not in command:
            raise ConfigError(f'{source}: {key}: should run {TRIAL_COMMAND}, got {show(command)}')
    if file.assessor is not None and file.assessor.class_name is not None:
        raise ConfigError(f'{source}: assessor.className: {show(file.assessor.class_name)} would be imported; register the '
                          'class with `nnictl algo register`, and write its name')
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
        if unknown := [key for key in data if key not in {field.alias for field in File.model_fields.values()}]:
            known = [field.alias or '' for field in File.model_fields.values()]
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


def _check_paths(file: File, service: Mapping[str, Any], source: str, folder: Path) -> None:
    folders = {'trialCodeDirectory': file.trial_code_directory, 'tuner.codeDirectory': file.tuner.code_directory,
               **{f'trainingService.{key}': service.get(key) for key in ('trialCodeDirectory', 'localStorageMountPoint')}}
    for key, name in folders.items():
        if name is not None and not is_directory(_from(folder, name)):
            raise ConfigError(f'{source}: {key}: there is no directory {show_path(name)}')
    check_path(_from(folder, file.experiment_working_directory), error=ConfigError,
               what=f'{source}: experimentWorkingDirectory:')
    if file.search_space_file is not None:
        try:
            space = load_yaml(_from(folder, file.search_space_file), 'the search space')
            if not isinstance(space, Mapping):
                raise ConfigError(f'should hold a mapping of keys to values, got {kind(space)}')
            check_space(space)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f'{source}: searchSpaceFile: {error}') from None
    if (name := service.get('openpaiConfigFile')) is not None and not is_file(_from(folder, name)):
        raise ConfigError(f'{source}: trainingService.openpaiConfigFile: there is no file {show_path(name)}')
    for machine in service.get('machineList') or ():
        key = machine.get('sshKeyFile', '~/.ssh/id_rsa')
        if machine.get('password') is None and (key is None or not is_file(_from(folder, key))):
            raise ConfigError(f'{source}: trainingService.machineList: there is no SSH key {show_path(key)} for '
                              f'{cell(machine["host"], 80)}, and no password')


def _from(folder: Path, name: str) -> Path:
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return folder / name
