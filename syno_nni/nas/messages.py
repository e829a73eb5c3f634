"""What NNI's manager, trials and tuner tell each other, decoded as the plain data that it should be.

NNI decodes every message with hooks that import modules, call functions and unpickle: ``{"__symbol__": ...}`` among the
parameters or metrics of a trial runs code. Nothing here does. A message that is not of the form that it should have is a
:class:`MessageError`, for its reader to log and drop.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from syno_nni.errors import EngineError, shown

MAX_TEXT = 1 << 24
"""Most characters of one message."""
PAYLOAD = 'payload'
"""The key of a trial's parameters that holds, as JSON, what the trial needs beside the formulas."""

_MAX_DEPTH = 32
_MAX_SEQUENCE = 10 ** 9
_TAG = re.compile('__.*__', re.DOTALL)
_METRIC_TYPES = ('PERIODICAL', 'FINAL')


class MessageError(EngineError):
    """A message is malformed."""


def decode(text: Any) -> Any:
    """The plain data in JSON text. Tags that mean objects to NNI stay keys of a mapping.

    Raises:
        MessageError: it is no JSON text, or none that Python can hold.
    """
    if not isinstance(text, (str, bytes)):
        raise MessageError(f'a message should be JSON text, got {shown(text)}')
    if len(text) > MAX_TEXT:
        raise MessageError(f'a message of {len(text)} characters; at most {MAX_TEXT} are read')
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f'a message that is no JSON ({type(error).__name__}), got {shown(text)}') from None


def plain(value: Any, what: str, depth: int = 0) -> Any:
    """``value`` itself, if it is data and nothing else.

    Raises:
        MessageError: it holds a key that NNI takes for an object, or is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise MessageError(f'{what}: nested more than {_MAX_DEPTH} deep')
    if isinstance(value, Mapping):
        for key, item in value.items():
            if _TAG.fullmatch(key):
                raise MessageError(f'{what}: the key {shown(key)} stands for an object, which is not accepted')
            plain(item, what, depth + 1)
    elif isinstance(value, list):
        for item in value:
            plain(item, what, depth + 1)
    return value


def encode(value: Any) -> str:
    """JSON text of plain data; scalars of numpy and torch become numbers."""
    return json.dumps(value, default=lambda scalar: scalar.item())


def metric(data: Any) -> dict[str, Any]:
    """A metric as a trial reports it, its ``value`` decoded.

    Raises:
        MessageError: a field is missing or of the wrong type.
    """
    fields = _mapping(data, 'a metric')
    if fields.get('type') not in _METRIC_TYPES:
        raise MessageError(f'a metric: type should be one of {", ".join(_METRIC_TYPES)}, got {shown(fields.get("type"))}')
    if not isinstance(fields.get('trial_job_id'), str):
        raise MessageError(f'a metric: trial_job_id should be text, got {shown(fields.get("trial_job_id"))}')
    if fields.get('parameter_id') is not None:
        _natural(fields['parameter_id'], 'a metric: parameter_id')
    sequence = _natural(fields.get('sequence'), 'a metric: sequence')
    value = plain(decode(fields.get('value')), f'the metric of trial {shown(fields["trial_job_id"])}')
    return {'type': fields['type'], 'trial_job_id': fields['trial_job_id'], 'parameter_id': fields.get('parameter_id'),
            'sequence': sequence, 'value': value}


def trial_end(data: Any) -> dict[str, Any]:
    """The news that a trial has ended: ``trial_job_id``, ``event``, ``parameter_id`` (None: it was not the search's own).

    Raises:
        MessageError: a field is missing or of the wrong type.
    """
    fields = _mapping(data, 'the end of a trial')
    for key in ('trial_job_id', 'event'):
        if not isinstance(fields.get(key), str):
            raise MessageError(f'the end of a trial: {key} should be text, got {shown(fields.get(key))}')
    number = _mapping(decode(fields.get('hyper_params')), 'the parameters of a trial').get('parameter_id')
    if number is not None:
        _natural(number, 'the parameters of a trial: parameter_id')
    return {'trial_job_id': fields['trial_job_id'], 'event': fields['event'], 'parameter_id': number}


def record(data: Any) -> dict[str, Any]:
    """The parameters on record for a trial: ``parameter_id`` and ``parameters``, a mapping to plain data.

    Raises:
        MessageError: they are malformed.
    """
    fields = _mapping(data, 'the parameters of a trial')
    number = fields.get('parameter_id')
    if number is not None:
        _natural(number, 'the parameters of a trial: parameter_id')
    parameters = plain(_mapping(fields.get('parameters'), 'the parameters of a trial'), 'the parameters of a trial')
    return {'parameter_id': number, 'parameters': parameters}


def imported(data: Any) -> list[dict[str, Any]]:
    """Imported results that are ``{'parameter': {...}, 'value': ...}``; others are left out."""
    good = []
    for entry in data if isinstance(data, list) else []:
        try:
            fields = _mapping(entry, 'an imported result')
            parameter = plain(_mapping(fields.get('parameter'), 'an imported result'), 'an imported result')
            value = fields.get('value')
            value = plain(decode(value) if isinstance(value, str) else value, 'an imported result')
        except MessageError:
            continue
        good.append({'parameter': parameter, 'value': value})
    return good


def trial_parameters(sample: Mapping[str, str], config: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """What a trial gets, flat, for the columns of the web UI: a formula per choice, and the rest as JSON.

    Args:
        sample: the value of each choice by label.
        config: the resolved experiment file.
        reference: what the original model reached, the fields of :class:`~.stages.Reference`.
    """
    return {**sample, PAYLOAD: encode({'config': config, 'reference': reference})}


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MessageError(f'{what} should be a mapping, got {shown(value)}')
    return value


def _natural(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEQUENCE:
        raise MessageError(f'{what} should be an integer from 0 to {_MAX_SEQUENCE}, got {shown(value)}')
    return value
