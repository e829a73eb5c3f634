"""Hostile values of many sorts, and ways to put them into data and text."""
from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ESCAPES = '\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\r'
FORMULA = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c, i]'


class Payload:
    """Unpickled without restrictions, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(canary: Path) -> list[Payload]:
    """Objects that make the file ``canary`` when they are unpickled."""
    import os
    import subprocess
    return [Payload(os.system, f'touch {canary}'), Payload(eval, f'open({str(canary)!r}, "w")'),
            Payload(exec, f'open({str(canary)!r}, "w")'), Payload(Path.touch, canary),
            Payload(subprocess.call, ['touch', str(canary)]), Payload(getattr, Payload(__import__, 'os'), 'system')]


def code_in_text(canary: Path) -> list[str]:
    """What runs code where text is evaluated, expanded, formatted, rendered or imported."""
    touch = f'touch {canary}'
    return [f'__import__("os").system("{touch}")', f'$({touch})', f'`{touch}`', f'; {touch} #', f'| {touch}', f'&& {touch}',
            f'{{{{ cycler.__init__.__globals__.os.system("{touch}") }}}}', '{0.__class__.__mro__}', '%(asctime)s %n %s',
            f'<script>fetch("file:{canary}")</script>', f'[x](javascript:{touch})', f'\\input{{{canary}}}',
            f'!!python/object/apply:os.system ["{touch}"]', f'path:os.system {touch}', '${HOME}', '../../../../etc/passwd',
            f'lambda: open({str(canary)!r}, "w")']


def symbols(canary: Path) -> list[dict[str, Any]]:
    """What NNI's decoder makes objects of."""
    touch = f'touch {canary}'
    return [{'__symbol__': 'path:os.system', '__args__': [touch], '__kwargs__': {}},
            {'__symbol__': 'path:subprocess.getoutput', '__args__': [touch]}, {'__nni_type__': 'bytes:gASVAAA='},
            {'_type': 'os.system', '_value': [touch]}, {'__class__': 'os.system', 'args': [touch]},
            {'_target_': 'os.system', 'command': touch}]


def data_values(canary: Path) -> list[Any]:
    """Values of JSON data, of every type and of the odd sizes."""
    return [None, True, False, 0, -1, 1, 3, 2 ** 31, 2 ** 63, 2 ** 64, -2 ** 70, 10 ** 30, 10 ** 400, 0.5, -0.0, 1e308, -1e308,
            1e-320, float('nan'), float('inf'), float('-inf'), '', ' ', 'x', '0', '-1', 'nan', '1e9', 'true', 'null', ESCAPES,
            'a\x00b', 'line\nline', '\ud800', '\u202e', '$x^$', '%s%s%n', '9' * 5000, 'x' * 300, 'y' * 100_000, 'ключ', '../..',
            '/dev/zero', '/proc/self/mem', [], [1], [[]], [[[[[[[]]]]]]], [None], ['x'], [1, 'x', {}], list(range(2000)), {},
            {'a': 1}, {'': ''}, {'x': {'y': {'z': []}}}, {'__proto__': 1}, {str(i): i for i in range(500)},
            _nested(25), _nested(200), *code_in_text(canary), *symbols(canary)]


def _nested(depth: int) -> Any:
    value: Any = 'deep'
    for i in range(depth):
        value = [value] if i % 2 else {'k': value}
    return value


def paths_in(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in nested data."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from paths_in(value, (*above, key))


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested data with another value at a place."""
    if not path:
        return value
    copy = dict(data) if isinstance(data, Mapping) else list(data)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


def without(data: Any, path: tuple[Any, ...]) -> Any:
    """A copy of nested data without a place."""
    copy = dict(data) if isinstance(data, Mapping) else list(data)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


def mutated(data: Any, values: list[Any], rng: random.Random) -> Any:
    """A copy of nested data with one to three changes: a value, a key more, a key less."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(paths_in(data))
        if not places:
            return data
        path = rng.choice(places)
        match rng.choice(('value', 'value', 'value', 'value', 'remove', 'add', 'wrap')):
            case 'value':
                data = with_value(data, path, rng.choice(values))
            case 'remove':
                data = without(data, path)
            case 'wrap':
                data = with_value(data, path, [rng.choice(values)] if rng.random() < 0.5 else {'x': rng.choice(values)})
            case _:
                data = {**data, rng.choice(['x', 'name', '', ESCAPES, '__symbol__', 'y' * 200]): rng.choice(values)} \
                    if isinstance(data, Mapping) else data
    return data


def json_text(data: Any) -> str:
    """JSON as Python writes it, with NaN and numbers of any length."""
    try:
        return json.dumps(data)
    except (ValueError, RecursionError):
        return '{"x": ' + '9' * 5000 + '}'


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, flipped, doubled, overwritten or interleaved."""
    content = bytearray(content)
    if not content:
        return b'\0'
    at = rng.randrange(len(content))
    match rng.randrange(7):
        case 0:
            return bytes(content[:at])
        case 1:
            for _ in range(rng.choice((1, 1, 8, 64))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 2:
            content[at:at] = content[at:at + 100] * 2
        case 3:
            content[at:at + 8] = rng.choice((b'\xff' * 8, b'\0' * 8, b'\x7f' + b'\xff' * 7, b'\x80' + b'\0' * 7))
        case 4:
            del content[at:at + rng.choice((1, 4, 100))]
        case 5:
            content[at:at] = rng.randbytes(rng.choice((1, 8, 300)))
        case _:
            return rng.randbytes(rng.choice((1, 10, 1000)))
    return bytes(content)


def pickled(canary: Path, rng: random.Random) -> bytes:
    """A pickle that runs code, of any protocol."""
    return pickle.dumps(rng.choice([rng.choice(payloads(canary)), {'state_dict': rng.choice(payloads(canary))},
                                    [1, rng.choice(payloads(canary))]]), protocol=rng.randrange(6))


SPECIAL: list[tuple[str, str | int]] = [
    ('fifo', ''), ('socket', ''), ('folder', ''), ('link', '/dev/zero'), ('link', '/dev/urandom'), ('link', '/dev/tty'),
    ('link', '/proc/self/mem'), ('link', '/proc/kmsg'), ('link', 'gone'), ('link', '.'), ('sparse', 1 << 42)]
"""What a path may lead to instead of a file."""
