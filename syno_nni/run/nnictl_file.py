"""Experiment files for ``nnictl create``: NNI's own keys at the top, the search under ``tuner.classArgs``.

NNI checks its keys itself, when the experiment starts; here they are checked before, together with ours and with the same
kind of message.
"""
from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from syno_nni.errors import ConfigError

from .config import SearchConfig

CLASS_NAME = 'syno_nni.strategies.tuner.SynoTuner'
REGISTERED_NAME = 'Syno'
TRIAL_COMMAND = 'python -m syno_nni.trial'

_NNI_SAYS = {'experimentName': 'experimentName', 'maxTrialNumber': 'maxTrialNumber', 'engine': 'trainingService',
             'machineList': 'trainingService.machineList', 'nniManagerIp': 'nniManagerIp',
             'maxExperimentDuration': 'maxExperimentDuration', 'trialConcurrency': 'trialConcurrency'}
# Keys of our files that these files have at the top.
_NNI_KEYS = ('experimentName', 'searchSpaceFile', 'searchSpace', 'trialCommand', 'trialCodeDirectory', 'trialConcurrency',
             'trialGpuNumber', 'maxExperimentDuration', 'maxTrialNumber', 'maxTrialDuration', 'nniManagerIp', 'debug',
             'logLevel', 'experimentWorkingDirectory', 'tunerGpuIndices', 'tuner', 'assessor', 'trainingService',
             'sharedStorage', 'useAnnotation', 'experimentType', 'advisor')
_TUNER_KEYS = ('name', 'className', 'codeDirectory', 'classArgs')


def tuner_config(class_args: Mapping[str, Any]) -> SearchConfig:
    """The search that ``tuner.classArgs`` describe.

    Raises:
        ConfigError: a key or value is wrong, or belongs to the top of the file.
    """
    for key, instead in {**_NNI_SAYS, 'trainingService': 'trainingService'}.items():
        if key in class_args:
            raise ConfigError(f'tuner.classArgs.{key}: NNI decides that; write {instead} at the top of the file')
    if 'port' in class_args:
        raise ConfigError('tuner.classArgs.port: NNI decides that; give --port to nnictl create')
    return SearchConfig.from_dict(class_args, 'tuner.classArgs')


def resolved(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A checked copy of a file for ``nnictl create``, with every default of ours filled in.

    Raises:
        ConfigError: something is wrong with it, in one line.
    """
    _check_keys(data, _NNI_KEYS, source, '')
    tuner = data.get('tuner')
    if not isinstance(tuner, Mapping):
        raise ConfigError(f"{source}: key 'tuner' is missing; write tuner: {{className: {CLASS_NAME}, classArgs: ...}}")
    _check_keys(tuner, _TUNER_KEYS, source, 'tuner.')
    if tuner.get('className') != CLASS_NAME and str(tuner.get('name', '')).lower() != REGISTERED_NAME.lower():
        raise ConfigError(f'{source}: the tuner is {tuner.get("className", tuner.get("name"))!r}; write tuner.className: '
                          f'{CLASS_NAME}, or tuner.name: {REGISTERED_NAME} after `nnictl algo register`')
    for key in ('trialCommand', 'trialConcurrency', 'trainingService', 'maxTrialNumber'):
        if key not in data:
            raise ConfigError(f"{source}: key '{key}' is missing")
    if 'syno_nni.trial' not in str(data['trialCommand']):
        raise ConfigError(f'{source}: trialCommand: should run {TRIAL_COMMAND}, got {data["trialCommand"]!r:.80}')
    if 'searchSpace' not in data and 'searchSpaceFile' not in data:
        raise ConfigError(f"{source}: key 'searchSpace' is missing, which NNI wants; write searchSpace: "
                          '{operator: {_type: choice, _value: [synthesized]}}')
    try:
        ours = tuner_config(tuner.get('classArgs') or {}).to_dict()
    except ConfigError as error:
        raise ConfigError(f'{source}: {error}') from None
    for key in (*_NNI_SAYS, 'port'):
        del ours[key]
    # NNI wants a folder beside a className, though the class is found without it.
    folder = {'codeDirectory': '.'} if 'className' in tuner else {}
    return {**data, 'tuner': {**folder, **tuner, 'classArgs': ours}}


def _check_keys(data: Mapping[str, Any], known: tuple[str, ...], source: str, prefix: str) -> None:
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            hint = f"did you mean '{close[0]}'?" if close else f'choose from {", ".join(known)}'
            where = f'{prefix}{key}'
            raise ConfigError(f'{source}: unknown key {where!r}; {hint}')
