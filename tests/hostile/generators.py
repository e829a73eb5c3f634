"""Generators of hostile cases, one for each kind of input. Each is endless; the same seed gives the same cases."""
from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from .case import Case, Content
from .values import (
    ESCAPES,
    FORMULA,
    SPECIAL,
    code_in_text,
    damaged,
    data_values,
    json_text,
    mutated,
    paths_in,
    payloads,
    pickled,
    symbols,
    with_value,
)

Generator = Callable[[random.Random, Path], Iterator[Case]]
MODEL = 'test_resnet'
"""timm's smallest ResNet."""
NO_SLOT = {'include': ['no.such.layer']}
"""Slots that no model has: what reads its data first ends then, whatever the data are."""


def _turns(rng: random.Random, *makers: Callable[[], Case]) -> Iterator[Case]:
    """Endless cases, from each maker in turn."""
    for make in cycle(makers):
        yield make()


# --- experiment files -------------------------------------------------------------------------------------------------

EXPERIMENT: dict[str, Any] = {
    'experimentName': 'x', 'model': {'name': MODEL, 'drop_rate': 0.1},
    'data': {'name': 'digits', 'path': 'data', 'imageSize': 32, 'channels': 3, 'batchSize': 8, 'trainSamples': 100,
             'valSamples': 50, 'seed': 1},
    'space': {'preset': 'conv2d', 'macsRatio': [0.1, 0.9], 'variables': {'k_1': 3, 'g': 4},
              'limits': {'windowRatio': 2.0, 'maxRank': 4}},
    'slots': {'kinds': ['conv3x3'], 'include': ['layer*'], 'exclude': ['x'], 'minShare': 0.01, 'groupBy': 'stage'},
    'strategy': {'name': 'evolution', 'seed': 1, 'classArgs': {'warm_up': 4, 'concurrency': 1, 'patience': 3}},
    'evaluation': {'epochs': 1, 'proxyEpochs': 1, 'proxySamples': 100, 'stopBelow': 0.5, 'optimizer': 'sgd',
                   'learningRate': 0.1, 'weightDecay': 0.01, 'momentum': 0.9, 'schedule': 'cosine', 'labelSmoothing': 0.1,
                   'clipGradient': 1.0, 'seed': 0, 'device': 'cpu', 'threads': 1},
    'latency': {'runtime': 'eager', 'threads': 1, 'batchSize': 1, 'imageSize': 32, 'warmup': 1, 'minRounds': 3, 'seconds': 1},
    'objective': {'accuracyWeight': 1.0, 'speedupWeight': 0.1, 'minAccuracy': 0.1, 'maxMacs': 10 ** 9, 'maxParams': 10 ** 8,
                  'maxLatencyMs': 100.0, 'minSpeedup': 0.1},
    'engine': 'sequential', 'port': 8080, 'machineList': [{'host': 'h', 'user': 'u', 'port': 22, 'sshKeyFile': 'k'}],
    'nniManagerIp': '127.0.0.1', 'maxTrialNumber': 2, 'maxExperimentDuration': '10m', 'maxTrialDuration': 60,
    'trialConcurrency': 1, 'runDirectory': 'run'}


class Raw(str):
    """YAML text that stands in a file as it is."""


RAW = [Raw(text) for text in (
    '9' * 100_000, '-' + '9' * 100_000, '0x' + 'f' * 100_000, '0' + '7' * 100_000, '0o' + '7' * 100_000, '0b' + '1' * 100_000,
    '1:' + '59:' * 30_000 + '59', '1' + '_1' * 50_000, '1.' + '0' * 100_000, '1e' + '9' * 50_000, '1e-999999999', '.inf',
    '-.inf',
    '.nan', '010', '08', '1:30', '2024-01-31', '2024-99-99 99:99:99', '1__0', '~', '', 'yes', 'no', 'on', '=', '<<', '*a',
    '&a x',
    '&a [*a]', '!!int x', '!!float x', '!!binary "////"', '!!timestamp x', '!!set {a, b}', '!!omap [a: 1]', '!!pairs [a: 1]',
    '!!null x', '!!bool x', '!!map x', '!!seq x', '!!str x', '!local x', '! x', '!<tag:yaml.org,2002:python/name:os.system> x',
    '"\\0"', '"\\ud800"', '"\\x1b[31m\\x07"', '"\\u202e"', '"' + 'x' * 100_000 + '"', '[' * 500, '{a: ' * 200, "'", '"', '|',
    '>',
    '? x', '- x', '@x', '%x', '\t', '{<<: {a: 1}}', '[1, 2', '{a: 1, a: 2}', '{[1]: 2}', '{? {a: 1} : 2}', '\x85', '\u2028')]


def _yaml(data: Any) -> str:
    """Flow YAML of data in which :class:`Raw` texts stand as they are."""
    if isinstance(data, Raw):
        return str(data)
    if isinstance(data, dict):
        return '{' + ', '.join(f'{json.dumps(str(k))}: {_yaml(v)}' for k, v in data.items()) + '}'
    if isinstance(data, list):
        return '[' + ', '.join(_yaml(v) for v in data) + ']'
    return json_text(data)


def _top(data: dict[str, Any]) -> str:
    return ''.join(f'{json.dumps(str(k))}: {_yaml(v)}\n' for k, v in data.items())


def _python_tags(canary: Path) -> list[str]:
    touch = f'touch {canary}'
    return [f'!!python/object/apply:os.system ["{touch}"]', f'!!python/object/new:os.system ["{touch}"]',
            '!!python/name:os.system', '!!python/module:os', f'!!python/object:pathlib.Path {{path: {canary}}}',
            f'!!python/object/apply:eval ["open({str(canary)!r}, \'w\')"]', '!!python/tuple [1]', '!!python/long 1',
            f'!!python/object/apply:subprocess.Popen [["touch", "{canary}"]]', '!!python/complex 1', '!!python/bytes x']


def _whole_files(base: str, canary: Path) -> list[Content]:
    """Files that are hostile as a whole, for any reader of YAML."""
    bomb = ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9) if i else "x"}]\n' for i in range(12))
    return [*SPECIAL, b'', b'\0', b'\xff\xfe\x00\x00', b'\xef\xbb\xbf' + base.encode(), base.encode('utf-16'), b'\x80\x81\x82',
            '[' * 100_000, '{' * 100_000, '- ' * 100_000, '? ' * 10_000, 'a: ' * 10_000, '[[]]', '1', 'x', '~', '[]',
            '--- a\n--- b',
            '%YAML 9.9\n---\n' + base, '%TAG ! tag:x,2000:\n---\n!a b', bomb, base + base, base + '\n\t\tx: 1',
            ''.join(f'k{i}: {i}\n' for i in range(40_000)), base + ESCAPES + ': 1\n', f'"{ESCAPES!r}": {{x: 1}}\n',
            '#' * 900_000,
            'x: "' + 'y' * 2_000_000 + '"', base + 'model: {name: other}\n', 'model:\n  - a\n  b: c\n', base.replace(':', ';'),
            *(f'x: {tag}\n{base}' for tag in _python_tags(canary)), *(f'{base}{tag}: 1\n' for tag in _python_tags(canary)),
            *(f'{tag}\n' for tag in _python_tags(canary)), 'model: &m {name: a, self: *m}\n', 'x: ' + '&a ' * 1000 + 'y',
            base + '\n'.join(f'"{i}": [{i}]' for i in range(3000))]


def experiment_files(rng: random.Random, canary: Path) -> Iterator[Case]:
    """YAML for ``syno-nni search``: whole files that are none, and a rich one with hostile values in all places."""
    base = _top(EXPERIMENT)
    values: list[Any] = [*data_values(canary), *RAW, *map(Raw, _python_tags(canary))]
    places = list(paths_in(EXPERIMENT))
    names = [ESCAPES, 'x' * 300, 'x' * 5000, 'no/such.yml', '/dev/zero', '/proc/self/mem', '.', '', '\n', 'a b', '~', '-',
             '--x']

    def one_place() -> Case:
        text = _top(with_value(EXPERIMENT, rng.choice(places), rng.choice(values)))
        return Case('yaml', ('search', 'f.yml', '--dry-run'), {'f.yml': text, 'k': 'key'}, None)

    def many_places() -> Case:
        text = _top(mutated(EXPERIMENT, values, rng))
        return Case('yaml', ('search', 'f.yml', '--dry-run'), {'f.yml': text}, None)

    def real_run() -> Case:
        # Not a dry run: whatever is wrong must be found before anything is made.
        data = with_value(EXPERIMENT, rng.choice(places), rng.choice(values))
        data = {**data, 'slots': NO_SLOT, 'engine': 'sequential'} if isinstance(data, dict) else data
        return Case('yaml', ('search', 'f.yml', '--run-dir', 'out'), {'f.yml': _top(data)})

    def bytes_damaged() -> Case:
        return Case('yaml', ('search', 'f.yml', '--dry-run'), {'f.yml': damaged(base.encode(), rng)}, None)

    def model() -> Case:
        extra = rng.choice(['global_pool', 'img_size', 'drop_rate', 'checkpoint_path', 'pretrained_cfg', 'features_only',
                            'act_layer', 'block', 'cache_dir', 'scriptable', 'output_stride', 'stem_width',
                            'patch_size', 'cardinality', 'layers', 'channels', 'x', 'device', 'dtype', 'norm_layer',
                            'base_width'])
        name = rng.choice([MODEL, MODEL, 'test_vit', 'resnet18_cifar', 'local-dir:.', 'local-dir:/dev', 'local-dir:', ESCAPES])
        data = {**EXPERIMENT, 'model': {'name': name, extra: rng.choice(values)}, 'slots': NO_SLOT}
        return Case('yaml', ('search', 'f.yml', '--run-dir', 'out'), {'f.yml': _top(data)})

    yield from (Case('yaml', ('search', 'f.yml', *dry), {'f.yml': content}, None) for content, dry in zip(
        _whole_files(base, canary), cycle([('--dry-run',)])))
    yield from (Case('yaml', ('search', name)) for name in names)
    yield from _turns(rng, one_place, one_place, many_places, real_run, bytes_damaged, model)


# --- files for nnictl -------------------------------------------------------------------------------------------------

NNICTL: dict[str, Any] = {
    'experimentName': 'x', 'searchSpace': {'operator': {'_type': 'choice', '_value': ['synthesized']}},
    'trialCommand': 'python -m syno_nni.trial', 'trialCodeDirectory': '.', 'trialConcurrency': 1, 'maxTrialNumber': 13,
    'maxTrialDuration': '10m', 'maxExperimentDuration': '1h', 'logLevel': 'info', 'debug': False,
    'experimentWorkingDirectory': 'exp', 'tunerGpuIndices': '0', 'nniManagerIp': '127.0.0.1',
    'tuner': {'className': 'syno_nni.strategies.tuner.SynoTuner', 'codeDirectory': '.', 'classArgs': {
        'model': {'name': MODEL}, 'data': {'name': 'digits', 'imageSize': 32}, 'strategy': {'name': 'evolution', 'seed': 0}}},
    'trainingService': {'platform': 'local', 'useActiveGpu': False, 'maxTrialNumberPerGpu': 1, 'gpuIndices': [0]}}


def nnictl_files(rng: random.Random, canary: Path) -> Iterator[Case]:
    """YAML for ``syno-nni nnictl create``. What may be right after all is only looked at."""
    base = _top(NNICTL)
    values: list[Any] = [*data_values(canary), *RAW, *map(Raw, _python_tags(canary)), *code_in_text(canary)]
    places = list(paths_in(NNICTL))
    services = [{'platform': 'remote', 'machineList': [{'host': 'h', 'user': 'u', 'password': 'p', 'port': 22}]},
                {'platform': 'kubeflow', 'x': 1}, {'platform': 'aml'}, {'platform': 'local', 'x': 1}, {'platform': 3}, [], 3,
                {'platform': 'kubeflow', 'operator': 'tf-operator', 'apiVersion': 'v1', 'storage': {
                    'storageType': 'nfs', 'server': 's', 'path': '/p'}, 'worker': {
                        'replicas': 1, 'command': 'c', 'cpuNumber': 1, 'memorySize': '1 GB', 'codeDirectory': '.'}},
                {'platform': 'aml', 'subscriptionId': 's', 'resourceGroup': 'g', 'workspaceName': 'w', 'computeTarget': 't'}]
    spaces: list[Content] = [*_whole_files('{"operator": {"_type": "choice", "_value": ["x"]}}', canary),
                             *map(json.dumps, symbols(canary)), json.dumps(NNICTL['searchSpace'])]

    def look(data: Any) -> Case:
        return Case('nnictl', ('search', 'f.yml', '--dry-run'), {'f.yml': _top(data)}, None)

    def one_place() -> Case:
        return look(with_value(NNICTL, rng.choice(places), rng.choice(values)))

    def service() -> Case:
        return look(mutated({**NNICTL, 'trainingService': rng.choice(services)}, values, rng))

    def space() -> Case:
        data = {**NNICTL, 'searchSpaceFile': 'space.json'}
        del data['searchSpace']
        return Case('nnictl', ('search', 'f.yml', '--dry-run'), {'f.yml': _top(data), 'space.json': rng.choice(spaces)}, None)

    def create() -> Case:
        broken = with_value(NNICTL, rng.choice(places), rng.choice(values))
        return Case('nnictl', ('nnictl', 'create', '--config', 'f.yml'), {'f.yml': _top({**broken, 'noSuchKey': 1})})

    yield from (Case('nnictl', ('nnictl', 'create', '--config', 'f.yml'), {'f.yml': content})
                for content in _whole_files(_top({**NNICTL, 'noSuchKey': 1}), canary))
    yield from (Case('nnictl', ('nnictl', 'create', *words)) for words in (
        (), ('--config',), ('-c',), ('--config=',), ('--config', ESCAPES), ('--config', 'x' * 300), ('-c', '/dev/zero')))
    yield from _turns(rng, one_place, one_place, service, create, space, lambda: look(mutated(NNICTL, values, rng)),
                      lambda: Case('nnictl', ('search', 'f.yml', '--dry-run'), {'f.yml': damaged(base.encode(), rng)}, None))


# --- operators --------------------------------------------------------------------------------------------------------

_PIECES = ['out[', 'in[', 'w1[', 'sum[', ']', '[', '(', ')', ',', '*', '+', '-', '/', '//', '%', '^', '=', ':', '0', '1', '2',
           '7',
           'n', 'c', 'h', 'C_in', 'C_out', 'H', 'N', 'k_1', 's', 'g', 'unfold(', 'shift(', 'n:N', ' ', '\n', '\x1b[31m', '\0',
           '٣',
           '²', 'é', '9' * 30, '^-1', '^999', '^' * 5, '((((((', '__import__', 'lambda', '{', '}', '"', "'", ';', '#', '\u202e']


def formulas(rng: random.Random, canary: Path) -> Iterator[Case]:
    """Text for ``syno-nni show``."""
    many = ', '.join(f'a{i}:N' for i in range(3000))
    fixed = ['', '=', '[', ']=[', 'out[]=in[]', 'out[n:N] = ' + '(' * 50_000, 'out[n:N] = in[' + 'n+' * 50_000 + 'n]',
             f'out[{many}] = in[n]', 'out[n:' + 'C_in*' * 30_000 + 'N] = in[n]', 'out[n:N^' + '9' * 10_000 + '] = in[n]',
             'out[n:N] = in[' + 'unfold(' * 3000 + 'n' + ', i)' * 3000 + ']', 'out[n:N] = in[n//' + '9' * 5000 + ']',
             FORMULA * 2000, FORMULA.replace('k_1', 'k_1^1000000'), FORMULA.replace('k_1', '9' * 400), FORMULA + '\x00',
             FORMULA.replace('in[', 'in' * 5000 + '['), f'{ESCAPES} = {ESCAPES}', FORMULA.replace('unfold', 'ｕｎｆｏｌｄ'),
             'out[n:N] = in[' + ' * '.join(f'w{i}[n]' for i in range(2000)) + ']', '\ud800=[', *code_in_text(canary),
             *(f'out[n:N] = in[{text}]' for text in code_in_text(canary))]
    sizes = ['C_in=0', 'C_in=-1', 'C_in=' + '9' * 5000, 'C_in=1e9', 'C_in=99999999999999999999', 'x', '=', f'{ESCAPES}=3',
             'C_in=٣',
             'C_in=9223372036854775807,C_out=9223372036854775807,H=9223372036854775807', 'C_in=3,C_in=4', 'Q=1',
             'H=1,k_1=999999']
    graphs = ['g.txt', 'g.dot', f'{ESCAPES}.txt', 'no/such/g.txt', 'g', 'g.exe', 'x' * 300 + '.txt', '/dev/full/x.txt', '.']

    def pieces() -> Case:
        text = ''.join(rng.choice(_PIECES) for _ in range(rng.randrange(1, 60)))
        return Case('formula', ('show', '=' + text.replace('-', '', 1) if text.startswith('-') else text + '='), {}, None)

    def edited() -> Case:
        text = list(FORMULA)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(text))
            match rng.randrange(4):
                case 0:
                    text[at] = rng.choice(_PIECES)
                case 1:
                    text[at:at] = [rng.choice(_PIECES)]
                case 2:
                    del text[at:at + rng.randrange(1, 9)]
                case _:
                    other = rng.randrange(len(text))
                    text[at:at + 6], text[other:other + 6] = text[other:other + 6], text[at:at + 6]
        return Case('formula', ('show', '[' + ''.join(text) if text[:1] == ['-'] else ''.join(text)), {}, None)

    def sized() -> Case:
        return Case('formula', ('show', FORMULA, '--sizes', rng.choice(sizes)), {}, None)

    def drawn() -> Case:
        return Case('formula', ('show', FORMULA, '--graph', rng.choice(graphs)), {}, None)

    yield from (Case('formula', ('show', text)) for text in fixed)
    yield from _turns(rng, pieces, edited, edited, pieces, edited, sized, pieces, edited, drawn)


def operator_json(rng: random.Random, canary: Path) -> Iterator[Case]:
    """JSON texts for ``Operator.from_json``."""
    good = {'format': 1, 'outputs': ['N', 'C_out', 'H', 'H'], 'reductions': ['C_in', 'k_1'],
            'input': [['out', 0], ['sum', 0], ['unfold', ['out', 2], ['sum', 1]], ['out', 3]],
            'weights': [[['out', 1], ['sum', 0], ['sum', 1]]]}
    values = data_values(canary)
    deep: Any = ['out', 0]
    for _ in range(900):
        deep = ['shift', deep, 1]
    fixed: list[Content] = [
        *SPECIAL, b'', b'\0', b'\xff', '[' * 100_000, '{"a":' * 50_000, 'NaN', '1', '"x"', 'null', '[]', '{}', '1e400',
        '-' * 1000,
        '{"format": 1, "format": 1}', '9' * 900_000, '"' + 'x' * 2_000_000 + '"', json.dumps({**good, 'format': 2}),
        json.dumps({**good, 'input': [deep]}), json.dumps({**good, 'input': good['input'] * 40}),
        json.dumps({**good, 'reductions': ['C_in'] * 64}), json.dumps({**good, 'outputs': ['N^99999'] * 4}),
        json.dumps({**good, 'weights': [[['out', 0]] * 64] * 64}), *map(json.dumps, symbols(canary))]

    def case(content: Content) -> Case:
        return Case('operator-json', ('operator-json', 'op.json'), {'op.json': content}, None)

    yield from map(case, fixed)
    yield from _turns(rng, lambda: case(json_text(mutated(good, values, rng))),
                      lambda: case(json_text(with_value(good, rng.choice(list(paths_in(good))), rng.choice(values)))),
                      lambda: case(damaged(json.dumps(good).encode(), rng)))


DOT = """digraph kernel {
out_0 [label="N(0)", shape=none];
out_1 [label="C(1)", shape=none];
in_0_0 [label="N(0)", shape=none];
in_0_1 [label="C(1)", shape=none];
op_1 [label="Shift", shape=box];
in_0_0 -> out_0 [label="N"];
in_0_1 -> op_1 [label="C"];
op_1 -> out_1 [label="C"];
}
"""


def graph_dots(rng: random.Random, canary: Path) -> Iterator[Case]:
    """``graph.dot`` files."""
    lines = DOT.splitlines(keepends=True)
    chain_of = ''.join(f'op_{i} [label="Shift"];\nop_{i} -> op_{i + 1} [label="C"];\n' for i in range(900))
    loop = DOT.replace('op_1 -> out_1', 'op_1 -> op_1')
    fixed: list[Content] = [
        *SPECIAL, b'', b'\0', b'\xff', 'digraph', 'digraph {', DOT * 50, DOT.replace('}', chain_of + '}'), loop,
        DOT.replace('"C"', f'"{ESCAPES}"'), DOT.replace('"C"', '"C^99999999999"'), DOT.replace('"C"',
                                                                                               '"' + 'C*' * 50_000 + 'C"'),
        DOT.replace('C(1)', 'C(' + '9' * 4000 + ')'), DOT.replace('Shift', 'Merge'), DOT.replace('Shift', ESCAPES),
        'digraph k {\n' + 'a -> b [label="' + '(' * 100_000 + '"];\n}', 'digraph k {\n' + ' ' * 199_000 + '\n}',
        'digraph k {\n' + 'x[' * 50_000 + '\n}', *(DOT.replace('op_1', text) for text in code_in_text(canary))]

    def case(content: Content) -> Case:
        return Case('graph-dot', ('graph-dot', 'graph.dot'), {'graph.dot': content}, None)

    def shuffled() -> Case:
        body = [rng.choice(lines) for _ in range(rng.randrange(1, 14))]
        return case('digraph kernel {\n' + ''.join(body) + '}')

    def renamed() -> Case:
        words = ['op_1', 'out_1', 'in_0_1', '"C"', 'Shift', 'N', '(1)', '->', 'label', '"', 'in_0_0']
        new = ['op_2', 'Share', 'Merge', 'Split', '"C (L->R)"', '"(->)"', '0', '-1', 'in_9_9', 'out_77', '', '\x1b', '"k_1^-2"']
        return case(DOT.replace(rng.choice(words), rng.choice(new), rng.choice((1, -1))))

    yield from map(case, fixed)
    yield from _turns(rng, shuffled, renamed, lambda: case(damaged(DOT.encode(), rng)))


# --- runs -------------------------------------------------------------------------------------------------------------

def _journal(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a small run."""
    known = {'rng': {'seed': 0, 'stream': 1}, 'attempt': 1}
    metrics = {'default': 0.97, 'accuracy': 0.97, 'latency_ms': 4.0, 'baseline_latency_ms': 4.0, 'speedup': 1.0,
               'macs': 8 * 10 ** 7,
               'params': 5 * 10 ** 6}
    records: list[dict[str, Any]] = [
        {'time': 1763800000.0, 'event': 'header', 'format': 1, 'config': config, 'digest': '0123456789abcdef',
         'environment': {'cpu': 'some CPU', 'cores': 2, 'versions': {'torch': '2'}}}]
    for number, candidate in enumerate(('baseline', 'aaaaaaaaaaaa', 'bbbbbbbbbbbb', 'cccccccccccc')):
        formula = FORMULA if number else 'keep'
        at = {'time': 1763800001.0 + number, 'number': number, 'id': candidate}
        records.append({**at, 'event': 'submitted', 'formula': formula, 'sample': {'operator': formula}, **known,
                        'note': {'paths': {'operator': [1, 2, 3]}}})
        if number < 3:
            records += [{**at, 'event': 'intermediate', 'metrics': {'default': 0.5}},
                        {**at, 'event': 'finished', 'state': 'succeeded', 'duration_s': 2.0,
                         'metrics': {**metrics, 'speedup': 1.0 + number / 7, 'train_seconds': 1.0}}]
    records += [{'time': 1763800009.0, 'number': 3, 'id': 'cccccccccccc', 'event': 'finished', 'state': 'failed',
                 'error': {'kind': 'timeout', 'message': 'slow'}},
                {'time': 1763800010.0, 'event': 'resumed', 'config': config, 'environment': {}},
                {'time': 1763800011.0, 'event': 'tested', 'id': 'aaaaaaaaaaaa', 'metrics': {'accuracy': 0.9}},
                {'time': 1763800012.0, 'event': 'ended', 'reason': 'budget', 'message': ''}]
    return records


RUN_CONFIG = {'experimentName': 'old', 'model': {'name': 'no_such_model'}, 'maxTrialNumber': 9, 'engine': 'sequential'}
"""Of runs that cannot go on, whatever their journal says: timm has no such model."""


def journals(rng: random.Random, canary: Path) -> Iterator[Case]:
    """``journal.jsonl`` of a run directory, read by ``report``, ``resume``, ``show`` and ``retrofit``."""
    records = _journal(RUN_CONFIG)
    values = data_values(canary)
    good = ''.join(json.dumps(record) + '\n' for record in records)
    reads = [('show', 'aaaa', '--run-dir', 'run'), ('retrofit', '--from-run', 'run', '--out', 'out'), ('resume', 'run'),
             ('resume', 'run', '--max-trials', '20', '--engine', 'sequential'),
             ('retrofit', '--from-run', 'run', '--candidate', 'a', '--out', 'out')]
    commands = cycle([*reads, *reads, ('report', 'run')])

    def case(content: Content, argv: tuple[str, ...] | None = None) -> Case:
        return Case('journal', argv or next(commands), {'run/journal.jsonl': content}, None)

    def lines(changed: list[Any]) -> str:
        return ''.join(json_text(record) + '\n' for record in changed)

    def one_value() -> Case:
        number = rng.randrange(len(records))
        record = with_value(records[number], rng.choice(list(paths_in(records[number]))), rng.choice(values))
        return case(lines([*records[:number], record, *records[number + 1:]]))

    def order() -> Case:
        changed = list(records)
        match rng.randrange(4):
            case 0:
                rng.shuffle(changed)
            case 1:
                del changed[rng.randrange(len(changed))]
            case 2:
                changed.insert(rng.randrange(len(changed)), rng.choice(changed))
            case _:
                changed.insert(rng.randrange(len(changed)), rng.choice(values))
        return case(lines(changed))

    def lock() -> Case:
        return Case('journal', ('resume', 'run'), {
            'run/journal.jsonl': good, 'run/run.lock': rng.choice([
                *SPECIAL, b'', b'\xff' * 100, ESCAPES, 'pid 1 on ' + ESCAPES, 'pid 1', 'x' * 1_000_000, '9' * 10_000,
                rng.choice(code_in_text(canary)), json.dumps(rng.choice(symbols(canary)))])})

    def config() -> Case:
        text = rng.choice([_top(with_value(RUN_CONFIG, (rng.choice(list(RUN_CONFIG)),), rng.choice([*values, *RAW]))),
                           *[f'x: {tag}' for tag in _python_tags(canary)]])
        return Case('journal', ('resume', 'run'), {'run/journal.jsonl': good, 'run/config.yml': text})

    fixed: list[Content] = [
        *SPECIAL, b'', b'\n', b'\0\n', b'\xff\n', '{}\n', '[]\n', 'null\n', '{\n', good[:-20], good + '{"event": "x"}\n',
        good + '\0' * 4096,
        good.replace('\n', '\r\n'), good.replace('\n', '\u2028'), good * 2, '[' * 100_000 + '\n', good + '9' * 10_000 + '\n',
        good.replace('"format": 1', '"format": 2'), good.replace('0.97', 'NaN'), good.replace('0.97', '1e999'),
        good.replace('some CPU', 'a\\u001b[31m'), good.replace('aaaaaaaaaaaa', 'a\\nb'), good.replace('aaaaaaaaaaaa', ESCAPES),
        good.replace('keep', 'x' * 100_000), '\n' * 100_000 + good, good.replace('"time"', '"time": 1, "time"'),
        *(good.replace('slow', json.dumps(text)[1:-1]) for text in code_in_text(canary))]
    yield from map(case, fixed)
    yield from (Case('journal', (command, *words)) for command in ('report', 'resume') for words in (
        ('no/such',), ('.',), ('/dev',), (ESCAPES,), ('x' * 300,), ('',)))
    yield from _turns(rng, one_value, one_value, one_value, order, lock, one_value, config)


# --- weights and folders ----------------------------------------------------------------------------------------------

def _safetensors(header: Any, data: bytes = b'\0' * 64) -> bytes:
    text = header if isinstance(header, bytes) else json_text(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def _torch_zip(pickle_bytes: bytes, **members: bytes) -> bytes:
    """A file as ``torch.save`` writes it, with a pickle of ours."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in {'archive/data.pkl': pickle_bytes, 'archive/version': b'3\n', 'archive/byteorder': b'little',
                              **members}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _weights(rng: random.Random, canary: Path) -> bytes:
    """A file of weights that is none, or holds code."""
    tensor = {'dtype': 'F32', 'shape': [4, 4], 'data_offsets': [0, 64]}
    match rng.randrange(9):
        case 0:
            return _torch_zip(pickled(canary, rng))
        case 1:
            return pickled(canary, rng)
        case 2:
            return _safetensors({rng.choice(['a', ESCAPES, 'conv1.weight', '']): mutated(tensor, data_values(canary), rng)})
        case 3:
            return struct.pack('<Q', rng.choice([0, 1, 2 ** 31, 2 ** 63, 2 ** 64 - 1])) + b'{}'
        case 4:
            return damaged(_safetensors({'conv1.weight': tensor}), rng)
        case 5:
            return damaged(_state_dict(rng), rng)
        case 6:
            return _state_dict(rng)
        case 7:
            return _torch_zip(b'\x80\x02' + rng.choice([b'cos\nsystem\n', b'c__builtin__\neval\n', b'cposix\nsystem\n'])
                              + f'(S"touch {canary}"\ntR.'.encode())
        case _:
            return rng.choice([b'', b'PK\x03\x04', b'\x80', b'\x80\x04.', b'\x1f\x8b', rng.randbytes(100), b'{}' * 100,
                               b'ustar' * 99,
                               _safetensors(b'[' * 10_000), _safetensors({'a': {'dtype': 'F32', 'shape': [2 ** 40],
                                                                               'data_offsets': [0, 2 ** 42]}})])


def _state_dict(rng: random.Random) -> bytes:
    """What ``torch.save`` writes of odd contents, all of it data."""
    import torch
    from torch import Tensor
    contents: list[Any] = [
        {}, [], 3, 'x', None, {'a': 1}, {'a': torch.zeros(2), 'b': 'x'}, {'state_dict': {}}, {'state_dict': 3},
        {ESCAPES: torch.zeros(2)}, {'x' * 10_000: torch.zeros(2)}, {3: torch.zeros(2)}, {'conv1.weight': torch.zeros(3)},
        {'conv1.weight': torch.zeros(1).expand(10 ** 12)}, {'conv1.weight': torch.full((1,), float('nan'))},
        {'model': {'model': {'model': {'model': torch.zeros(2)}}}}, {f'k{i}': torch.zeros(1) for i in range(2000)},
        {'conv1.weight': torch.zeros(2, dtype=torch.complex64)}, {'conv1.weight': torch.zeros(2, 2).to_sparse()},
        {'conv1.weight': torch.zeros(2, device='meta')}, {'module.': torch.zeros(2)}, {'': torch.zeros(2)}, torch.zeros(3)]
    looped: dict[str, Any] = {}
    looped['state_dict'] = looped
    buffer = io.BytesIO()
    chosen: Any = rng.choice([*contents, looped])
    torch.save(chosen if not isinstance(chosen, Tensor) else chosen, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def checkpoints(rng: random.Random, canary: Path) -> Iterator[Case]:
    """``retrofit --checkpoint FILE``."""
    import torch

    ends = ['.pth', '.bin', '.tar', '.pt', '.ckpt', '.safetensors', '.pkl', '.npz', '']

    def case(content: Content, end: str) -> Case:
        return Case('checkpoint', ('retrofit', MODEL, '--operator', 'conv2d', '--checkpoint', f'w{end}', '--runtime', 'none',
                                   '--out', 'out'), {f'w{end}': content})

    def saved(payload: Any, new: bool = True) -> bytes:
        buffer = io.BytesIO()
        torch.save(payload, buffer, _use_new_zipfile_serialization=new)
        return buffer.getvalue()

    yield from (case(saved({'state_dict': payload}, new), end) for payload, new, end in zip(
        payloads(canary) * 2, cycle([True, False]), cycle(ends)))
    yield from (case(content, end) for content, end in zip(SPECIAL, cycle(ends)))
    yield from (Case('checkpoint', ('retrofit', MODEL, '--operator', 'conv2d', '--checkpoint', name, '--out', 'out'))
                for name in (ESCAPES, 'x' * 300, '', '.', '/dev/zero', 'no.pth', '~', '/proc/self/mem'))
    yield from _turns(rng, lambda: case(_weights(rng, canary), rng.choice(ends)))


FOLDER: dict[str, Any] = {
    'architecture': 'syno_retrofit', 'num_classes': 10, 'num_features': 64, 'global_pool': 'avg',
    'model_args': {'base': MODEL, 'num_classes': 10, 'in_chans': 3, 'slots': {'format': 1, 'slots': {
        'layer1.0.conv2': {'formula': FORMULA, 'sizes': {'N': 1, 'C_in': 32, 'C_out': 32, 'H': 40, 'k_1': 3}, 'stride': [],
                           'input_size': [], 'bias': False, 'layout': 'NCHW'}}}},
    'pretrained_cfg': {'architecture': 'syno_retrofit', 'tag': None, 'num_classes': 10, 'input_size': [3, 160, 160],
                       'pool_size': None, 'interpolation': 'bicubic', 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5],
                       'first_conv': 'conv1', 'classifier': 'fc'},
    'syno_nni': {'change': {'macs': 1}}}
_BASES = ['hf-hub:evil/x', 'hf_hub:evil/x', 'local-dir:.', 'local-dir:/etc', 'syno_retrofit', 'resnet18_syno_07754', '', ' ',
          'x/y',
          'vit_giant_patch14_dinov2', 'vit_gigantic_patch14_224', 'convnextv2_huge', 'eva_giant_patch14_224',
          'vit_7b_patch16_dinov3',
          'regnety_2560', 'resnetv2_152x4_bit', 'no_such', ESCAPES, 'https://x.y/z', 'resnet18.a1_in1k', 3, None, [], {}]
_ARGS: dict[str, list[Any]] = {
    'num_classes': [10 ** 9, -1, 0, 'x', 2 ** 63, 1.5, [], True], 'in_chans': [10 ** 9, -1, 0, 'x', 10 ** 6],
    'width': [10 ** 9, 10 ** 6], 'layers': [[10 ** 9] * 4, [10 ** 5, 1, 1, 1], [], 'x', [-1] * 4, 10 ** 9, [2] * 10 ** 4],
    'channels': [[10 ** 6] * 4, [10 ** 9], []], 'img_size': [10 ** 9, [10 ** 6, 10 ** 6], 0, 'x'], 'embed_dim': [10 ** 7, -1],
    'depth': [10 ** 9, -1, 1.5], 'stem_width': [10 ** 8], 'base_width': [10 ** 9], 'cardinality': [0, 10 ** 9],
    'global_pool': [[], 3, 'x', ESCAPES], 'act_layer': ['os.system', 'x', 3], 'norm_layer': ['os.system', {}],
    'block': ['os.system'],
    'checkpoint_path': ['w.pth'], 'pretrained_cfg': [{'file': 'w.pth'}, {'url': 'http://127.0.0.1:9/x'}],
    'features_only': [True],
    'pretrained_cfg_overlay': [{'file': 'w.pth'}], 'cache_dir': ['/etc'], 'device': ['meta', 'cuda', 'x'], 'drop_rate': [1e308,
                                                                                                                         'x'],
    'scriptable': [True], 'exportable': [True], 'pretrained': [True, 'x'], 'dtype': ['x'], 'out_indices': [[99], 'x'],
    'output_stride': [7, 10 ** 9], 'kernel_size': [10 ** 9], 'mlp_ratio': [1e9], 'num_heads': [0, 10 ** 9],
    'patch_size': [0, 10 ** 9]}
_CFG: dict[str, list[Any]] = {
    'architecture': ['os.system', 'hf-hub:evil/x', 'resnet18', 'vit_7b_patch16_dinov3', 3, None, [], ESCAPES, 'local-dir:/'],
    'file': ['w.pth', '/dev/zero', '/etc/passwd'], 'url': ['http://127.0.0.1:9/w.pth', 'file:///etc/passwd'],
    'hf_hub_id': ['evil/x'], 'source': ['hf-hub', 'url', 'file', 'x'], 'custom_load': [True, 'hf', 'os.system'],
    'state_dict': [{'a': 1}], 'input_size': [[3, 10 ** 9, 10 ** 9], [], 'x', [0, 0, 0], [3, -1, 4]], 'first_conv': [3, [], 'x',
                                                                                                                    {}],
    'classifier': [3, 'x', []], 'mean': ['x', [1e308] * 3], 'num_classes': [10 ** 9, 'x'], 'pool_size': ['x'],
    'crop_pct': ['x']}


def folders(rng: random.Random, canary: Path) -> Iterator[Case]:
    """Folders of models, given as ``local-dir:``, or to ``load_folder``."""
    values = data_values(canary)
    reads = cycle([('saved-folder', 'm'), ('slots', 'local-dir:m'), ('saved-folder', 'm'),
                   ('retrofit', 'local-dir:m', '--operator', 'conv2d', '--runtime', 'none', '--out', 'out')])

    def case(config: Content, weights: Content | None = None, name: str = 'model.safetensors',
             argv: tuple[str, ...] | None = None) -> Case:
        files: dict[str, Content] = {'m/config.json': config}
        if weights is not None:
            files[f'm/{name}'] = weights
        argv = argv or next(reads)
        # `slots` needs no weights, so what is wrong with them, or with facts that it does not use, is no concern of its.
        return Case('folder', argv, files, None if argv[0] == 'slots' else True)

    def configuration() -> Case:
        return case(json_text(mutated(FOLDER, values, rng)), _safetensors({}))

    def slot() -> Case:
        path = rng.choice([p for p in paths_in(FOLDER) if p[:2] == ('model_args', 'slots')])
        return case(json_text(with_value(FOLDER, path, rng.choice(values))), _safetensors({}))

    def arguments() -> Case:
        name = rng.choice(list(_ARGS))
        args = {**FOLDER['model_args'], name: rng.choice(_ARGS[name])}
        if rng.random() < 0.4:
            args['base'] = rng.choice([MODEL, 'test_vit', 'resnet18_cifar', 'test_convnext'])
        return case(json_text({**FOLDER, 'model_args': args}), _safetensors({}))

    def base() -> Case:
        return case(json_text(with_value(FOLDER, ('model_args', 'base'), rng.choice(_BASES))), _safetensors({}))

    def declared() -> Case:
        name = rng.choice(list(_CFG))
        cfg = {**FOLDER['pretrained_cfg'], name: rng.choice(_CFG[name])}
        return case(json_text({**FOLDER, 'pretrained_cfg': cfg, 'architecture': cfg['architecture']}), _weights(rng, canary),
                    rng.choice(['model.safetensors', 'w.pth']))

    def plain() -> Case:
        """A folder of a stock model, as others share them."""
        name = rng.choice(list(_ARGS))
        config = {'architecture': MODEL, 'model_args': {name: rng.choice(_ARGS[name])}, 'pretrained_cfg': {
            'architecture': MODEL, **rng.choice([{}, {'file': 'm/w.pth'}, {'url': 'http://127.0.0.1:9/x'}])}}
        return case(json_text(config), _weights(rng, canary), rng.choice(['model.safetensors', 'pytorch_model.bin', 'w.pth']))

    def weights() -> Case:
        names = ['model.safetensors', 'pytorch_model.bin', 'open_clip_pytorch_model.bin', 'open_clip_model.safetensors']
        return case(json.dumps(FOLDER), _weights(rng, canary), rng.choice(names))

    yield from (case(content, _safetensors({})) for content in (
        *SPECIAL, b'', b'\0', b'\xff', '{', '[]', '3', 'null', '[' * 100_000, '9' * 20_000_000, '{"model_args": []}',
        '{"model_args": {"slots": 3, "base": 3}}', *map(json.dumps, symbols(canary))))
    yield from (case(json.dumps(FOLDER), content, name) for content in SPECIAL for name in ('model.safetensors',))
    yield from (case(json.dumps(FOLDER), pickled(canary, rng), name) for name in ('pytorch_model.bin', 'model.safetensors',
                                                                                  'x.pth'))
    yield from (Case('folder', (command, f'local-dir:{name}', *more)) for command, *more in (
        ('slots',), ('retrofit', '--operator', 'conv2d')) for name in ('', 'no', ESCAPES, 'x' * 300, '/dev', '/dev/zero', '..'))
    yield from (case(json_text(with_value(FOLDER, ('model_args', 'base'), name)), _safetensors({})) for name in _BASES)
    yield from _turns(rng, configuration, slot, arguments, base, declared, plain, weights, arguments, slot)


# --- the zoo ----------------------------------------------------------------------------------------------------------

ENTRY: dict[str, Any] = {
    'format': 1, 'name': 'x', 'formula': FORMULA, 'family': 'conv2d', 'source': 'published', 'citation': 'somebody',
    'published': [{'model': 'resnet18', 'cifar100_accuracy': 0.8, 'cifar100_baseline': 0.8, 'imagenet_accuracy': 0.7,
                   'imagenet_baseline': 0.7, 'speedup_mobile_cpu_inductor': 1.2, 'speedup_mobile_gpu_inductor': None,
                   'speedup_a100_inductor': 2, 'model_macs': 10, 'model_params': 10}]}
RETROFIT: dict[str, Any] = {
    'format': 1, 'name': 'm', 'base': 'resnet18', 'base_args': {'num_classes': 10}, 'input_size': [3, 64, 64],
    'kinds': ['conv3x3'], 'fill': {'conv3x3': 'x', 'layer4.*': 'keep'}, 'coefficients': {'g': 4}, 'tag': 'untrained',
    'weights': '', 'notes': 'a note', 'mean': 0.5, 'std': 0.5, 'claims': [
        {'runtime': 'eager', 'threads': 1, 'input': [1, 3, 64, 64], 'precision': 'float32', 'latency_ms': 1.0,
         'baseline_latency_ms': 2.0, 'speedup': 2.0, 'speedup_low': 1.9, 'speedup_high': 2.1, 'noisy': False, 'cpu': 'c',
         'date': '2026-01-01'},
        {'accuracy': [0.9, 0.91], 'baseline_accuracy': [0.9], 'dataset': 'd', 'split': 'test', 'recipe': 'r', 'seeds': [0]}]}


def zoo_entries(rng: random.Random, canary: Path) -> Iterator[Case]:
    """The files of the zoo itself, read by ``zoo list``, ``zoo show``, ``zoo verify`` and ``show``."""
    values = data_values(canary)
    shows = cycle([('zoo', 'show', 'x'), ('zoo', 'show', 'm'), ('zoo', 'list'), ('show', 'x'), ('zoo', 'list', '--json'),
                   ('zoo', 'show', 'm', '--json'), ('zoo', 'verify', 'm', '--runtime', 'onnx', '--seconds', 'nan')])

    def case(entry: Content, model: Content, argv: tuple[str, ...] | None = None, refused: bool | None = None) -> Case:
        return Case('zoo', argv or next(shows), {'zoo/operators/x.json': entry, 'zoo/models/m.json': model}, refused)

    def operator() -> Case:
        return case(json_text(mutated(ENTRY, values, rng)), json.dumps(RETROFIT))

    def retrofit() -> Case:
        return case(json.dumps(ENTRY), json_text(mutated(RETROFIT, values, rng)))

    def number() -> Case:
        path = rng.choice([p for p in paths_in(ENTRY) if p[0] == 'published'])
        return case(json_text(with_value(ENTRY, path, rng.choice(values))), json.dumps(RETROFIT))

    def claim() -> Case:
        path = rng.choice([p for p in paths_in(RETROFIT) if p[0] == 'claims'])
        return case(json.dumps(ENTRY), json_text(with_value(RETROFIT, path, rng.choice(values))),
                    rng.choice([('zoo', 'show', 'm'), ('zoo', 'list'), ('zoo', 'list', '--json')]))

    yield from (case(content, json.dumps(RETROFIT), ('zoo', 'show', 'x'), True) for content in (
        *SPECIAL, b'', b'\xff', '{}', '[]', '[' * 100_000, json.dumps({**ENTRY, 'format': 2}), '9' * 17_000_000))
    yield from (case(json.dumps(ENTRY), content, ('zoo', 'show', 'm'), True) for content in (
        *SPECIAL, b'', b'\xff', '{}', '[]', '[' * 100_000, json.dumps({**RETROFIT, 'format': 2}), '9' * 17_000_000))
    yield from (Case('zoo', ('zoo', action, name)) for action in ('show', 'verify', 'list') for name in (
        ESCAPES, 'x' * 100_000, '', '../../etc/passwd', *code_in_text(canary)[:3]))
    yield from _turns(rng, operator, retrofit, number, claim, claim)


# --- data -------------------------------------------------------------------------------------------------------------

def _png(rng: random.Random) -> bytes:
    from PIL import Image
    buffer = io.BytesIO()
    Image.frombytes('RGB', (16, 16), rng.randbytes(16 * 16 * 3)).save(buffer, rng.choice(['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF',
                                                                                          'WEBP']))
    return buffer.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(
        b'IDAT', zlib.compress(b'\0' * 1000)) + chunk(b'IEND', b'')


def data_files(rng: random.Random, canary: Path) -> Iterator[Case]:
    """Files of datasets, read by a search; its slots are none, so that it ends after the data, whatever they are."""
    search = ('search', 'f.yml', '--engine', 'sequential', '--run-dir', 'out')

    def experiment(name: str, **more: Any) -> str:
        return _top({'model': {'name': MODEL}, 'slots': NO_SLOT, 'data': {'name': name, 'path': 'data', 'imageSize': 32,
                                                                          **more}})

    def idx(head: bytes, count: int, rest: bytes) -> bytes:
        return head + struct.pack('>I', count) + rest

    images = idx(b'\0\0\x08\x03', 20, struct.pack('>II', 4, 4) + b'\x7f' * 320)
    labels = idx(b'\0\0\x08\x01', 20, bytes(range(10)) * 2)
    mnist = {'train-images-idx3-ubyte': images, 'train-labels-idx1-ubyte': labels, 't10k-images-idx3-ubyte': images,
             't10k-labels-idx1-ubyte': labels}
    heads = [b'\0\0\x08\x03' + struct.pack('>III', 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1), b'\0\0\x0d\x03' + images[4:],
             b'\0\0\x08\x01' + struct.pack('>I', 2 ** 31), b'\0\0\x08\x03' + struct.pack('>III', 0, 0, 0),
             b'\0\0\x08\x03' + struct.pack('>III', 20, 0, 4), b'\0\0\x08\x01' + struct.pack('>I', 0),
             labels[:-10] + b'\xff' * 10]

    def fashion() -> Case:
        files: dict[str, Content] = {f'data/{name}': content for name, content in mnist.items()}
        name = rng.choice(list(mnist))
        new: Content = rng.choice([damaged(mnist[name], rng), *heads, rng.choice(SPECIAL), pickled(canary, rng), b''])
        if rng.random() < 0.3:
            packed = gzip.compress(new if isinstance(new, bytes) else b'x')
            del files[f'data/{name}']
            name, new = f'{name}.gz', rng.choice([damaged(packed, rng), packed, b'\x1f\x8b', rng.choice(SPECIAL)])
        return Case('data', search, {**files, f'data/{name}': new, 'f.yml': experiment('fashion-mnist', channels=1)})

    def cifar() -> Case:
        fine = rng.random() < 0.5
        record = b'\x01' * (2 if fine else 1) + b'\x7f' * 3072
        names = ['train.bin', 'test.bin'] if fine else [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']
        files: dict[str, Content] = {f'data/{name}': record * 3 for name in names}
        new: Content = rng.choice([damaged(record * 3, rng), b'', b'\xff' * len(record) * 3, record[:-1], rng.choice(SPECIAL),
                                   pickled(canary, rng)])
        files[f'data/{rng.choice(names)}'] = new
        return Case('data', search, {**files, 'f.yml': experiment('cifar100' if fine else 'cifar10')})

    def images_folder() -> Case:
        good = _png(rng)
        classes = [rng.choice(['a', ESCAPES.replace('/', ''), '.b', '_c', 'd' * 200, '-e']), 'z']
        files: dict[str, Content] = {f'data/{c}/{i}.png': good for c in classes for i in range(8)}
        for _ in range(rng.randrange(1, 4)):
            new: Content = rng.choice([
                damaged(good, rng), b'', _bomb(10 ** 5, 10 ** 5), _bomb(2 ** 31 - 1, 1), _bomb(0, 0), rng.choice(SPECIAL),
                b'<svg/>', b'%!PS\n(%pipe%touch ' + str(canary).encode() + b') (w) file', pickled(canary, rng), b'GIF89a'])
            end = rng.choice(['.png', '.jpg', '.tif', '.gif', '.bmp', '.webp', '.ppm', '.jp2'])
            files[f'data/{rng.choice(classes)}/{rng.choice(["odd", ESCAPES.replace("/", ""), "x" * 200])}{end}'] = new
        if rng.random() < 0.2:
            files = {name.replace('data/', 'data/train/'): content for name, content in files.items()}
            files['data/val/a/0.png'] = good
        return Case('data', search, {**files, 'f.yml': experiment('imagefolder')})

    def path() -> Case:
        where = rng.choice(['/dev', '/dev/zero', '/proc', '/proc/self/fd', '', '.', 'no/such', 'x' * 300, ESCAPES, 'a\0b',
                            '~nobody', '~',
                            'f.yml', '/root'])
        name = rng.choice(['fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'])
        return Case('data', search, {'f.yml': _top({'model': {'name': MODEL}, 'slots': NO_SLOT,
                                                    'data': {'name': name, 'path': where, 'imageSize': 32}})})

    def fitted() -> Case:
        name = rng.choice(['fashion-mnist', 'cifar10', 'imagefolder'])
        files: dict[str, Content] = {'data/x': b'', **{f'data/{n}': damaged(c, rng) for n, c in mnist.items()}}
        return Case('data', ('retrofit', MODEL, '--operator', 'conv2d', '--data', name, '--data-path', 'data', '--out', 'out'),
                    files)

    yield from _turns(rng, fashion, images_folder, cifar, path, images_folder, fashion, fitted)


# --- the terminal -----------------------------------------------------------------------------------------------------

def terminal(rng: random.Random, canary: Path) -> Iterator[Case]:
    """Names on the command line, and what a terminal obeys; also with ``--debug``, which shows tracebacks."""
    evil = [ESCAPES, '\x1bP+q544e\x1b\\', '\x1b]8;;http://x\x07link\x1b]8;;\x07', '\x9b2J', '\x08' * 50, '\u2066x\u2069',
            '\u200b',
            '\x7f', '\ud800', '\n' * 50, '\r\n error: fake', '\x1b[' + '9' * 1000 + 'A', 'é\u0301' * 100, '\U000e0041',
            'x' * 100_000,
            '%s' * 100, '{}' * 100, *code_in_text(canary)]
    commands: list[tuple[str, ...]] = [
        ('search', '{}'), ('search', '{}', '--dry-run'), ('search', '--run-dir', '{}', 'no.yml'), ('resume', '{}'), ('report',
                                                                                                                     '{}'),
        ('show', '{}'), ('show', 'conv2d', '--graph', '{}/x/y.txt'), ('show', 'conv2d', '--sizes', '{}'), ('show', 'aaaa',
                                                                                                           '--run-dir', '{}'),
        ('slots', '{}'), ('slots', 'local-dir:{}'), ('slots', MODEL, '--kinds', '{}'), ('slots', MODEL, '--image-size', '{}'),
        ('slots', MODEL, '--include', '{}'), ('retrofit', '{}', '--operator', 'conv2d'), ('retrofit', MODEL, '--operator',
                                                                                          '{}'),
        ('retrofit', MODEL, '--operator', '{}=conv2d'), ('retrofit', MODEL, '--operator', 'conv2d', '--runtime', '{}'),
        ('retrofit', MODEL, '--operator', 'conv2d', '--losses', '{}'), ('retrofit', MODEL, '--budget', '{}'),
        ('retrofit', '--from-run', '{}'), ('retrofit', MODEL, '--operator', 'conv2d', '--checkpoint', '{}'), ('zoo', '{}'),
        ('zoo', 'show', '{}'), ('zoo', 'verify', '{}'), ('zoo', 'list', '{}'), ('nnictl', 'create', '--config', '{}'), ('{}',),
        ('search', '--{}'), ('show',), ('retrofit',), ('zoo', 'show'), ('search', '--engine', '{}'), ('search', '--port', '{}'),
        ('retrofit', MODEL, '--operator', 'conv2d', '--data', 'imagefolder', '--data-path', '{}'), ('search', 'no.yml', '{}'),
        ('zoo', 'verify', 'resnet18_syno_07754', '--runtime', '{}'), ('resume', 'no', '--max-trials', '{}')]

    def case(debug: bool) -> Case:
        text = rng.choice(evil)
        argv = tuple(word.replace('{}', text) for word in rng.choice(commands))
        return Case('terminal', (*argv, *(('--debug',) if debug else ())), {}, None, debug)

    yield from _turns(rng, lambda: case(False), lambda: case(False), lambda: case(True))


GENERATORS: dict[str, tuple[Generator, int]] = {
    'experiment files': (experiment_files, 22), 'nnictl files': (nnictl_files, 12), 'formulas': (formulas, 14),
    'operator JSON': (operator_json, 7), 'graph.dot': (graph_dots, 7), 'journals': (journals, 14), 'checkpoints': (checkpoints,
                                                                                                                   7),
    'folders': (folders, 13), 'zoo entries': (zoo_entries, 9), 'data files': (data_files, 8), 'terminal': (terminal, 10)}
"""By kind: the generator, and its share of the cases."""


def cases_of(kind: str, seed: int, total: int, canary: Path) -> list[Case]:
    """The cases of a kind, of a corpus of at least ``total``."""
    generate, share = GENERATORS[kind]
    shares = sum(share for _, share in GENERATORS.values())
    endless = generate(random.Random(f'{seed} {kind}'), canary)
    return [next(endless) for _ in range(-(-total * share // shares))]


