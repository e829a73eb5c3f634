"""What is wrong with plain data that a schema refused, in one line: the key, the value, what is wanted, what may be meant."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from syno_nni.errors import shown
from syno_nni.text import did_you_mean, near, shorten, visible

_MOST = 5
_WANTED = {
    'model_type': 'should be a mapping of keys to values', 'dict_type': 'should be a mapping of keys to values',
    'tuple_type': 'should be a list', 'string_type': 'should be text', 'bool_type': 'should be true or false',
    'string_pattern_mismatch': 'should be letters, digits, spaces, dots and dashes',
    'unexpected_keyword_argument': 'is no argument',
}


def one_line_of(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first few mistakes that ``error`` lists, and how many more there are.

    Args:
        error: of the validation of plain data.
        schema: what the data were to be, for the names of its keys.
    """
    # Wording takes a comparison with all known keys: only for those that are shown, of perhaps many thousands.
    items = {(item['loc'], item['type'], item['msg'] if len(item['loc']) < 2 else ''): item
             for item in error.errors(include_url=False, include_context=True)}
    messages = dict.fromkeys(_message(item, schema) for item in islice(items.values(), _MOST))
    more = len(items) - _MOST
    return '; '.join([*messages, *([f'and {more} more'] if more > 0 else [])])


def _message(item: Any, schema: type[BaseModel]) -> str:
    path = item['loc']
    where = '.'.join(_word(part) for part in path)
    if item['type'] == 'extra_forbidden':
        section = _section_at(schema, path[:-1])
        known = [field.alias or name for name, field in section.model_fields.items()] if section else []
        return f"unknown key '{where}'; {did_you_mean(path[-1], known)}"
    if item['type'] == 'missing':
        return f"key '{where}' is missing"
    wanted = _WANTED.get(item['type']) or item['msg'].removeprefix('Value error, ').removeprefix('Input ')
    wanted = shorten(visible(wanted), 400)
    if item['type'] == 'value_error' and isinstance(item['input'], Mapping | BaseModel):
        return f'{where}: {wanted}' if where else wanted
    hint = ''
    if item['type'] == 'literal_error' and isinstance(item['input'], str):
        choices = re.findall(r"'([^']*)'", item['ctx']['expected'])
        hint = f'; {did_you_mean(item["input"], choices)}' if near(item['input'], choices, 1) else ''
    return f'{where}: {wanted}, got {show(item["input"])}{hint}'


def _word(part: object) -> str:
    text = shorten(str(part), 80)
    return text if text.isprintable() else repr(text)


def _section_at(schema: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = schema
    for part in path:
        if section is None:
            return None
        if isinstance(part, int):  # an item of a list, whose section is known already
            continue
        field = next((f for name, f in section.model_fields.items() if part in (name, f.alias, to_camel(name))), None)
        section = next(_sections(field.annotation), None) if field is not None else section  # a member of a union
    return section


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation mentions, such as the one in ``tuple[MachineConfig, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def show(value: Any) -> str:
    """A value as messages show it, in a bounded number of visible characters."""
    if isinstance(value, (dict, list, tuple)):
        try:
            text = repr(value) if len(value) < 20 else ''
        except (ValueError, RecursionError):  # a number of more digits than Python writes
            text = ''
        return visible(text) if 0 < len(text) <= 80 else shown(value)
    return visible(shown(value))


def kind(value: Any) -> str:
    """What a value is, in words, where a mapping was wanted."""
    return 'nothing' if value is None else f'{type(value).__name__} {show(value)}'
