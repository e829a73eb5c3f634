"""The zoo reads what it holds, says what is wrong with what it does not, and executes nothing."""
from __future__ import annotations

import json

import pytest

import syno_nni as sn
from syno_nni import model_zoo
from syno_nni.errors import ZooError
from syno_nni.model_zoo.entries import parse_entry


@pytest.mark.parametrize('name', model_zoo.names())
def test_entries_load(name: str) -> None:
    entry = model_zoo.load(name)
    assert entry.name == name
    assert model_zoo.find(entry.operator.id).name == name
    assert sn.OperatorSpace.preset(entry.family).contains(entry.operator)
    assert all(0 < result['cifar100_accuracy'] < 1 for result in entry.published)


def test_published_07754_is_the_operator_that_the_paper_calls_2() -> None:
    entry = model_zoo.load('syno_resnet_07754')
    sizes = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 56, 'k_1': 3, 'g': 32, 's': 2}
    assert entry.operator.params(sizes) == 32 * 3 * 64 + 2 * 32 * 3
    assert {r['model'] for r in entry.published} == {'resnet18', 'resnet34'}


def test_unknown_name_suggests_a_close_one() -> None:
    with pytest.raises(ZooError, match='did you mean .*syno_resnet_07754'):
        model_zoo.load('syno_resnet_0775')
    assert model_zoo.find('nothing') is None


@pytest.mark.parametrize('name', ['../entries', '/etc/passwd', '', 'operators/../x'])
def test_names_are_not_paths(name: str) -> None:
    with pytest.raises(ZooError):
        model_zoo.load(name)


@pytest.mark.parametrize('change, message', [
    ({'format': 2}, 'newer'), ({'format': 'x'}, 'version number'), ({'formula': 'out['}, 'cannot read formula'),
    ({'formula': None}, 'formula: should be text'), ({'published': 3}, 'published: should be'), ({'id': 'f' * 12}, 'has id'),
    ({'published': [{'model': 'x', 'cifar100_accuracy': 'high'}]}, 'published.0.cifar100_accuracy: '),
    ({'published': [{'model': 3}]}, 'published.0.model: ')])
def test_malformed_entries_say_what_is_wrong(change: dict, message: str) -> None:
    good = {'format': 1, 'name': 'x', 'formula': 'out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]',
            'family': 'linear', 'source': 'test'}
    assert parse_entry(json.dumps(good), 'x.json').operator.params({'C_in': 2, 'C_out': 3}) == 6
    with pytest.raises(ZooError, match=message):
        parse_entry(json.dumps({**good, **change}), 'x.json')


@pytest.mark.parametrize('text', ['', '[]', '{', 'null', '{"format": NaN}'])
def test_not_an_entry(text: str) -> None:
    with pytest.raises(ZooError):
        parse_entry(text, 'x.json')
