"""The zoo's operators: JSON files beside this module, read by name or id; reading executes nothing."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from syno_nni.errors import SynoError, ZooError
from syno_nni.files import parse_json
from syno_nni.operator import Operator
from syno_nni.operator.serialize import check_version
from syno_nni.text import did_you_mean

FORMAT = 1


@dataclass(frozen=True)
class ZooEntry:
    """An operator with its name, where it comes from, and what is known about it.

    ``published`` holds numbers that others published (one mapping per backbone: accuracies as fractions, speedups as
    ratios, MACs and params of the whole model); they were not measured here.
    """

    name: str
    operator: Operator
    family: str
    source: str
    citation: str = ''
    published: tuple[Mapping[str, Any], ...] = field(default=())


def names() -> list[str]:
    """The names of all entries, sorted."""
    return sorted(_files())


def load(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        ZooError: there is no such entry (with close names), or its file is malformed or of a newer format.
    """
    if name not in _files():
        raise ZooError(f'the zoo has no operator {name!r:.80}{close_names(name, names())} `syno-nni zoo list` shows all')
    return _read(name)


def find(text: str) -> ZooEntry | None:
    """The entry whose name or operator id is ``text``, if there is one."""
    if text in _files():
        return _read(text)
    return next((entry for name in names() if (entry := _read(name)).operator.id == text), None)


@cache
def files(folder: str) -> dict[str, Any]:
    """The JSON files in a folder of the zoo, by name."""
    return {f.name.removesuffix('.json'): f for f in (resources.files(__package__) / folder).iterdir()
            if f.name.endswith('.json')}


def _files() -> dict[str, Any]:
    return files('operators')


@cache
def _read(name: str) -> ZooEntry:
    return parse_entry(_files()[name].read_text(encoding='utf-8'), f'{name}.json')


def parse_entry(text: str, where: str) -> ZooEntry:
    """The entry that a JSON text describes.

    Raises:
        ZooError: it is malformed; names ``where`` and what is wrong.
    """
    data = check_format(text, where, FORMAT)
    for key in ('name', 'formula', 'family', 'source'):
        if not isinstance(data.get(key), str):
            raise ZooError(f'{where}: "{key}" must be text, got {data.get(key)!r:.40}')
    published = data.get('published', [])
    if not isinstance(published, list) or not all(isinstance(p, dict) for p in published):
        raise ZooError(f'{where}: "published" must be a list of objects')
    try:
        operator = Operator.parse(data['formula'])
    except SynoError as error:
        raise ZooError(f'{where}: {error}') from None
    if data.get('id', operator.id) != operator.id:
        raise ZooError(f'{where}: the formula has id {operator.id}, and the file says {data["id"]!r:.40}')
    return ZooEntry(data['name'], operator, data['family'], data['source'], str(data.get('citation', '')),
                    tuple(published))


def check_format(text: str, where: str, newest: int) -> dict[str, Any]:
    """The JSON object of a text, whose "format" this version reads.

    Raises:
        ZooError: it is no JSON object, or of no known format.
    """
    data = parse_json(text, where, ZooError)
    if not isinstance(data, dict):
        raise ZooError(f'{where}: wanted a JSON object, got {type(data).__name__}')
    check_version(data.get('format'), newest, where, ZooError)
    return data


def close_names(name: str, known: list[str]) -> str:
    """A hint for an error message: the names closest to an unknown one, or just the end of the clause."""
    hint = did_you_mean(name, known, 2, otherwise='')
    return f'; {hint}' if hint else ';'
