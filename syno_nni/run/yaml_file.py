"""YAML files as plain data: no tags, aliases or duplicate keys, and scalars with what stood in the file.

Scalars without quotes are read as YAML 1.2 and people read them (``1e9`` is a number), except where readings differ: those
come as :class:`~syno_nni.schema.Ambiguous`, and the schema says what they may stand for. What is written
(:func:`dump_yaml`) reads back alike here and in any YAML 1.1 reader.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from syno_nni.errors import ConfigError
from syno_nni.files import EXPERIMENT_BYTES, read_text, show_path
from syno_nni.schema import Ambiguous, SourceFloat, SourceInt
from syno_nni.text import cell, visible

MAX_NODES = 20_000
"""Keys, values and lists of a file. Reading takes a tenth of a millisecond for each, and an experiment file has hundreds."""
MAX_DIGITS = 100
_HALF_OF_A_PAIR = re.compile('[\ud800-\udfff\0]')


def load_yaml(path: str | Path, what: str = 'the experiment file') -> Any:
    """The plain data in a YAML file.

    Raises:
        ConfigError: the file is missing, no regular file, too large, or no plain YAML.
    """
    return parse_yaml(read_text(path, limit=EXPERIMENT_BYTES, error=ConfigError, what=what), show_path(path))


def parse_yaml(text: str, source: str) -> Any:
    """Plain data from YAML text: no tags, aliases or duplicate keys. ``source`` opens every error message.

    Raises:
        ConfigError: it is no such YAML; the message names the line where it can.
    """
    try:
        return _PlainLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''
        raise ConfigError(f'{source}{where}: {cell(error.problem or error.context)}') from None
    except yaml.YAMLError as error:
        raise ConfigError(f'{source}: not YAML: {cell(error)}') from None
    except RecursionError:
        raise ConfigError(f'{source}: nested too deeply') from None
    except ValueError as error:
        raise ConfigError(f'{source}: {cell(error)}') from None


def dump_yaml(data: Any) -> str:
    """YAML text of plain data, in the order of its keys."""
    return yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)


# --- what a plain scalar is: the first pattern that fits it decides --------------------------------------------------

_NUMBER_TAG, _ODD_TAG, _BOOL_TAG, _NULL_TAG = '?number', '?ambiguous', '?bool', '?null'
_TEXT_TAG = 'tag:yaml.org,2002:str'
_NUMBER = re.compile(r"""[-+]?(0|[1-9][0-9]*(_[0-9]+)*)                                    # 12, 1_000
                         |[-+]?0x[0-9a-fA-F]+|[-+]?0o[0-7]+|[-+]?0b[01]+                   # 0x10, 0o17, 0b1
                         |[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)     # 1e9, 1.5e-3
                         |[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*\.[0-9]*)                         # 1.5, .5, 1.
                         |[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)""", re.VERBOSE)
_ODD = re.compile(r"""[-+]?0[0-9_]+                                                        # 010
                      |[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?                        # 1:30
                      |[-+]?\.?[0-9][0-9._]*_[0-9._]*(e[-+]?[0-9]+)?                       # 1__0
                      |[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+
                      |[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?                          # 2024-01-31
                      |yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF""", re.VERBOSE)


def _number(text: str) -> int | float:
    digits = text.replace('_', '').lower()
    if len(digits) > MAX_DIGITS:
        raise ValueError(f'a number of {len(digits)} digits')
    if digits.lstrip('+-') in ('.inf', '.nan'):
        return SourceFloat.of(float(digits.replace('.', '')), text)
    if digits.lstrip('+-')[:2] in ('0x', '0o', '0b'):
        return SourceInt.of(int(digits, 0), text)
    return SourceInt.of(int(digits), text) if digits.lstrip('+-').isdigit() else SourceFloat.of(float(digits), text)


def _ambiguous(text: str) -> Ambiguous:
    shown = text if len(text) <= 40 else f'{text[:37]}...'
    if text.lower() in ('yes', 'no', 'on', 'off'):
        truth = text.lower() in ('yes', 'on')
        return Ambiguous.of(text, f'{shown} is a truth value in YAML: write {str(truth).lower()}, or quotes around text', truth)
    if ':' in text and '-' not in text[1:]:
        return Ambiguous.of(text, f'{shown} is a number of base 60 in YAML: write seconds, or a unit (90s, 90m), or quotes '
                            'around text')
    if '-' in text[1:] and not re.fullmatch(r'[-+]?[0-9._]*e[-+]?[0-9]+', text):
        return Ambiguous.of(text, f'{shown} is a date in YAML: write quotes around text')
    return Ambiguous.of(text, f'{shown} is read in two ways, as octal or with its zeros or underscores dropped: write the '
                        'number plainly, or quotes around text')


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases (so that no file can expand in memory) and without silently repeated keys."""
    # Neither YAML 1.1's scalars nor its tags: only text, lists and mappings may be called so explicitly.
    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in
                         (None, _TEXT_TAG, 'tag:yaml.org,2002:seq', 'tag:yaml.org,2002:map')}
    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f'more than {MAX_NODES} keys and values, which no such file has',
                                       problem_mark=self.peek_event().start_mark)
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f'aliases (*{visible(event.anchor[:40])}) are not supported: write the value '
                                       'out', problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem='a key must be a single word', problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'key {cell(repr(key.value), 80)} stands twice', problem_mark=key.start_mark)
            seen.add(key.value)
            if key.tag.startswith('?'):  # a key is a name: as it was written
                key.tag = _TEXT_TAG
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode) and (found := _HALF_OF_A_PAIR.search(node.value)):
            raise yaml.MarkedYAMLError(problem=f'{ascii(found[0])} is no character of a text', problem_mark=node.start_mark)
        return super().construct_scalar(node)

    def construct_number(self, node: Any) -> Any:
        try:
            return _number(self.construct_scalar(node))
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=f'{error}: no setting wants it', problem_mark=node.start_mark) from None

    def construct_ambiguous(self, node: Any) -> Any:
        return _ambiguous(self.construct_scalar(node))

    def construct_bool(self, node: Any) -> bool:
        return bool(self.construct_scalar(node).lower() == 'true')

    def construct_nothing(self, node: Any) -> None:
        return None


_CORE: tuple[tuple[str, Any, list[str | None]], ...] = (
    (_BOOL_TAG, re.compile('true|True|TRUE|false|False|FALSE'), list('tTfF')),
    (_NULL_TAG, re.compile('~|null|Null|NULL|'), ['~', 'n', 'N', '']),
    (_NUMBER_TAG, _NUMBER, list('-+0123456789.')), (_ODD_TAG, _ODD, list('-+0123456789.yYnNoO')))
for _tag, _pattern, _first in _CORE:
    _PlainLoader.add_implicit_resolver(_tag, re.compile(rf'(?:{_pattern.pattern})$', _pattern.flags), _first)
_PlainLoader.add_constructor(_BOOL_TAG, _PlainLoader.construct_bool)
_PlainLoader.add_constructor(_NULL_TAG, _PlainLoader.construct_nothing)
_PlainLoader.add_constructor(_NUMBER_TAG, _PlainLoader.construct_number)
_PlainLoader.add_constructor(_ODD_TAG, _PlainLoader.construct_ambiguous)


class _PlainDumper(yaml.SafeDumper):
    """SafeDumper that puts quotes around text which this reader, or one of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _CORE[2:]:
    _PlainDumper.add_implicit_resolver(_tag, re.compile(rf'(?:{_pattern.pattern})$', _pattern.flags), _first)
