from __future__ import annotations

import json
from typing import Any

import pytest

from syno_nni.errors import GraphError
from syno_nni.operator import Operator, classics
from syno_nni.operator.serialize import FORMAT


def conv(**changes: Any) -> dict[str, Any]:
    return {**classics.conv2d().to_dict(), **changes}


def test_the_form() -> None:
    assert Operator.parse('out[h:H/s] = sum[i:k] in[shift(unfold(stride(h, s), i), -1)] * w1[i, h]').to_dict() == {
        'format': FORMAT, 'outputs': ['H/s'], 'reductions': ['k'],
        'input': [['shift', ['unfold', ['stride', ['out', 0], 's'], ['sum', 0]], -1]],
        'weights': [[['sum', 0], ['out', 0]]]}


def test_newer_formats_are_refused_politely() -> None:
    for version in (FORMAT + 1, 10 ** 5000):
        with pytest.raises(GraphError, match='format .* is newer than format 1.*upgrade syno-nni'):
            Operator.from_dict(conv(format=version))


def test_duplicate_keys_are_refused() -> None:
    text = json.dumps(conv())
    assert Operator.from_json(text) == Operator.from_json(text.encode()) == classics.conv2d()
    with pytest.raises(GraphError, match='key twice'):
        Operator.from_json(text.replace('{', '{"format": 1, ', 1))


@pytest.mark.parametrize(('data', 'message'), [
    ([], 'must be a JSON object'),
    (None, 'must be a JSON object'),
    ('text', 'must be a JSON object'),
    ({}, '"format" must be a version number'),
    (conv(format='1'), 'version number'),
    (conv(format=True), 'version number'),
    (conv(format=0), 'version number'),
    (conv(format=1.0), 'version number'),
    (conv(extra=1), 'wanted the keys'),
    ({k: v for k, v in conv().items() if k != 'weights'}, 'wanted the keys'),
    (conv(outputs='NCHW'), 'outputs must be a list'),
    (conv(outputs=[1, 2, 3, 4]), 'must be text'),
    (conv(outputs=['N', 'C_out', 'H', 'H*']), 'cannot read size'),
    (conv(outputs=[None]), 'must be text'),
    (conv(input=None), 'the input must be a list'),
    (conv(input=[['out']]), 'takes 1 arguments, got 0'),
    (conv(input=[['out', 0, 1]]), 'takes 1 arguments, got 2'),
    (conv(input=[['out', '0']]), 'wants an integer'),
    (conv(input=[['out', True]]), 'wants an integer'),
    (conv(input=[['out', 9]]), 'uses out 9, and there are 4'),
    (conv(input=[['out', -1]]), 'uses out -1'),
    (conv(input=[['sum', 3]]), 'uses sum 3'),
    (conv(input=[['roll', ['out', 0], 1]]), "primitive 'roll'"),
    (conv(input=[[['out', 0]]]), 'must be a list .kind'),
    (conv(input=[['shift', ['out', 0]]]), 'takes 2 arguments'),
    (conv(input=[['shift', ['out', 0], 0.5]]), 'an integer'),
    (conv(input=[['shift', ['out', 0], float('nan')]]), 'an integer'),
    (conv(input=[['div', ['out', 0], 2]]), 'be text'),
    (conv(input=[['div', ['out', 0], '0']]), 'positive number'),
    (conv(input=[['split', ['out', 0], 's']]), 'must be a list'),
    (conv(input=[['out', 0], ['out', 0]]), 'data-linear'),
    (conv(input=[]), 'no coordinate'),
    (conv(weights=[[['out', 0]] * 65]), 'at most 64'),
    (conv(weights=[[]] * 9), 'at most 8'),
    (conv(weights=[3]), 'a list'),
    (conv(reductions={}), 'must be a list'),
])
def test_malformed_data_is_named(data: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Operator.from_dict(data)


@pytest.mark.parametrize('text', [
    '', ' ', '{', '[' * 100_000, '{"format":' * 50_000, 'null', 'NaN', '{"format": NaN}', '{"format": 1e999}', '\x00',
    '{"format": ' + '9' * 100_000 + '}', '\ufeff{}', b'\xff\xfe', b'\x80', 'x' * 2_000_000, None, 3, [],
    json.dumps(conv()).replace('1', '1.0', 1), json.dumps(conv())[:-1], json.dumps(conv()) + '}',
])
def test_malformed_text(text: Any) -> None:
    with pytest.raises(GraphError):
        Operator.from_json(text)


def test_lists_that_share_parts_are_counted_in_full() -> None:
    """YAML anchors, for instance, make 2**30 nodes of thirty lists."""
    node: list = ['out', 0]
    for _ in range(30):
        node = ['unfold', node, node]
    with pytest.raises(GraphError, match='more than 1000 nodes'):
        Operator.from_dict(conv(input=[node]))
    loop: list = ['shift', None, 1]
    loop[1] = loop
    with pytest.raises(GraphError, match='nests more than'):
        Operator.from_dict(conv(input=[loop]))
