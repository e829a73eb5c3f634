"""Malformed formulas, JSON and graph.dot files: a SynoError, at once, in bounded memory, and never anything else."""
from __future__ import annotations

import copy
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syno_nni.errors import SynoError
from syno_nni.operator import Operator, classics
from syno_nni.operator.dot_reader import read_graph_dot
from syno_nni.operator.size import Size

from ...testing.published import ARTIFACT, NAMES, graph
from .test_dot_reader import CONV as DOT

FORMULA = str(classics.operator_2())
many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

# Built from code where the text would be long; each is read in a process of its own with little memory and time.
CORPUS: dict[str, str] = {
    'open brackets': "'out[n:N] = in[' + '(' * 90_000",
    'nested functions': "'out[n:N] = in[' + 'shift(' * 15_000 + 'n' + ', 1)' * 15_000 + ']'",
    'a chain of %': "'out[n:N] = in[n' + '%g' * 40_000 + ']'",
    'a chain of //': "'out[n:N] = in[n' + '//g' * 30_000 + ']'",
    'nested sizes': "'out[n:' + '(' * 49_000 + 'N' + ')' * 49_000 + '] = in[n]'",
    'a long size': "'out[n:' + '*'.join(['N'] * 45_000) + '] = in[n]'",
    'a size of many names': "'out[n:' + '*'.join(f'x{i}' for i in range(12_000)) + '] = in[n]'",
    'huge exponent': "'out[n:N^' + '9' * 90_000 + '] = in[n]'",
    'huge exponents': "'out[n:' + '*'.join(['N^64', 'M^64'] * 9_000) + '] = in[n]'",
    'huge number': "'out[n:' + '9' * 90_000 + '] = in[n]'",
    'huge product': "'out[n:' + '*'.join(['999999999999'] * 7_000) + '] = in[n]'",
    'huge offset': "'out[n:N] = in[shift(n, ' + '9' * 90_000 + ')]'",
    'many outputs': "'out[' + ', '.join(f'i{i}:N' for i in range(9_000)) + '] = in[i0]'",
    'many reductions': "'out[n:N] = sum[' + ', '.join(f'i{i}:N' for i in range(9_000)) + '] in[n]'",
    'many coordinates': "'out[n:N] = in[' + ', '.join(['n'] * 30_000) + ']'",
    'many weights': "'out[n:N] = in[n]' + ''.join(f' * w{i}[n]' for i in range(1, 9_000))",
    'a long name': "'out[' + 'n' * 90_000 + ':N] = in[n]'",
    'a long variable': "'out[n:' + 'N' * 90_000 + '] = in[n]'",
    'only spaces': "' ' * 99_000",
    'spaces, then not': "'out[n:N]' + ' ' * 90_000 + '!'",
    'newlines': "'\\n' * 99_000 + 'out'",
    'megabytes': "'out[n:N] = in[n]' * 2_000_000",
    'full nesting': "'out[n:N] = in[' + 'shift(' * 31 + 'n' + ', 1)' * 31 + '] * w1[' + '(n' + '%g' * 31 + ')]' + '!'",
    'byte order mark': "'\\ufeffout[n:N] = in[n]'",
    'wide characters': "'ｏｕｔ[n:N] = in[n]'",
    'other digits': "'out[n:٣] = in[n]'",
    'no text': "b'out[n:N] = in[n]'",
    'surrogates': "'\\ud800'",
    'zero': "'out[n:N] = in[n]\\0'",
}
READ = """
import resource, sys, time
from syno_nni.operator import Operator
from syno_nni.errors import SynoError
text = {text}
limit = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 100 * 2 ** 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (2 + int(time.process_time()), 3 + int(time.process_time())))
try:
    Operator.parse(text)
except SynoError as error:
    assert len(str(error)) < 1000, len(str(error))
    print('refused')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits memory through /proc')
@pytest.mark.parametrize('name', CORPUS)
def test_formulas_are_refused_within_limits(name: str) -> None:
    done = subprocess.run([sys.executable, '-c', READ.format(text=CORPUS[name])], capture_output=True, text=True)
    assert done.stdout == 'refused\n', done.stderr[-2000:]


def refuses_or_reads(read: Callable[[Any], Operator], data: Any) -> None:
    """Either a SynoError, or an operator that prints, parses back and keeps its id."""
    try:
        op = read(data)
    except SynoError as error:
        assert len(str(error)) < 2000
        return
    again = Operator.parse(str(op))
    assert again.id == op.id and Operator.from_dict(op.to_dict()).structure == op.structure


PIECES = ['out', 'in', 'sum', 'w1', 'w2', 'w', 'unfold(', 'shift(', 'stride(', '[', ']', '(', ')', ',', ':', '=',
          '*', '//', '/', '%', '^', '+', '-', 'n', 'o', 'h', 'c', 'N', 'C_in', 'H', 'g', 's', '0', '1', '2',
          '64', '99999999999', ' ', 'n:N', 'h:H', 'c:C_in', 'n*H + h', 'h//s', 'h%s', '_',
          'ü', '\ufeff', '\n', '\0', '.', '"']


@many
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(' '.join))
def test_token_soup(text: str) -> None:
    refuses_or_reads(Operator.parse, text)
    refuses_or_reads(Operator.parse, f'out[n:N, h:H] = sum[c:C_in] in[n, {text}]')
    try:
        assert Size.parse(str(Size.parse(text))) == Size.parse(text)
    except SynoError:
        pass


@many
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    for read in (Operator.parse, Operator.from_json, read_graph_dot):
        refuses_or_reads(read, text)
    refuses_or_reads(Operator.parse, f'out[n:{text}] = in[n]')
    refuses_or_reads(read_graph_dot, f'digraph k {{\n{text}\n}}')


def mutate(text: str, rng: random.Random, pieces: list[str]) -> str:
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text)), rng.randint(0, 8)
        match rng.randrange(4):
            case 0:
                text = text[:at] + text[at + length:]
            case 1:
                text = text[:at] + rng.choice(pieces) + text[at:]
            case 2:
                text = text[:at] + text[at:at + length] * rng.randint(2, 3) + text[at + length:]
            case 3:
                start = rng.randrange(len(text))
                text = text[:at] + text[start:start + length] + text[at + length:]
        text = text or 'x'
    return text


@many
@given(st.integers(0, 2 ** 32), st.sampled_from([FORMULA, *(str(make()) for make in classics.CLASSICS.values())]))
def test_mutated_formulas(seed: int, text: str) -> None:
    refuses_or_reads(Operator.parse, mutate(text, random.Random(seed), PIECES))


DOTS = [DOT, *(map(graph, NAMES) if ARTIFACT.is_dir() else [])]
DOT_PIECES = ['op_1', 'op_2', 'in_0_0', 'out_0', 'reduce_1', ' -> ', '[label="', '"]', ';\n', '(L->)', '(->R)', 'Share',
              'Merge', 'Split', 'Unfold', 'Stride', 'Shift', 'Expand', 'Sum', 's^-1*', '}', '{', '"', '\n']


@many
@given(st.integers(0, 2 ** 32), st.sampled_from(DOTS))
def test_mutated_files(seed: int, text: str) -> None:
    rng = random.Random(seed)
    if rng.random() < 0.5:
        refuses_or_reads(read_graph_dot, mutate(text, rng, DOT_PIECES))
    # Whole words exchanged: still a graph, and rarely a legal one.
    words = text.replace('->', ' -> ').split(' ')
    a, b = rng.randrange(len(words)), rng.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    refuses_or_reads(read_graph_dot, ' '.join(words).replace(' -> ', '->', rng.randrange(3)))


JUNK: list[Any] = [None, True, -1, 10 ** 30, 10 ** 5000, 1.5, float('nan'), float('inf'), '', 'N', 'out', b'N', [],
                   {}, [[]], ['out', 0], ['sum', 0], ['shift', ['out', 0], 1], {'format': 1}, (), set(),
                   object(), '9' * 5000]


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    if not isinstance(node, (dict, list)):
        return []
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    return [(node, k) for k in keys] + [place for k in keys for place in places(node[k])]


@many
@given(st.integers(0, 2 ** 32), st.sampled_from([make().to_dict() for make in classics.CLASSICS.values()]))
def test_mutated_data(seed: int, data: dict[str, Any]) -> None:
    rng = random.Random(seed)
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(places(data))
        match rng.randrange(4):
            case 0:
                container[key] = rng.choice(JUNK)
            case 1:
                other, at = rng.choice(places(data))
                container[key] = copy.deepcopy(other[at])
            case 2:
                if isinstance(container, list):
                    container.insert(key, rng.choice(JUNK))
                else:
                    container[rng.choice(['x', 3, None, 'Format'])] = rng.choice(JUNK)
            case 3:
                del container[key]
        if not places(data):
            break
    refuses_or_reads(Operator.from_dict, data)


@many
@given(st.integers(0, 2 ** 32))
def test_mutated_json(seed: int) -> None:
    text = json.dumps(classics.operator_2().to_dict())
    pieces = ['{', '}', '[', ']', '"', ',', ':', '1', 'NaN']
    refuses_or_reads(Operator.from_json, mutate(text, random.Random(seed), pieces))


def test_memory_stays_bounded_in_process() -> None:
    """The sum of it all: nothing above kept a large structure alive."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in ('(' * 99_000, 'out[n:' + '*'.join(['N'] * 45_000) + '] = in[n]'):
        with pytest.raises(SynoError):
            Operator.parse(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
