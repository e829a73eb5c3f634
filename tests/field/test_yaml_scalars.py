"""What people write into YAML without quotes is read as they mean it, or refused in words.

YAML 1.1 takes ``1e9`` for text, ``1:30`` for 90, ``010`` for 8, ``no`` for false (the "Norway problem"), ``1.10`` for 1.1 and
a date for a date (yaml/pyyaml#116, llama.cpp#12114).
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from syno_nni.errors import ConfigError
from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.yaml_file import dump_yaml, parse_yaml


def config(text: str) -> SearchConfig:
    return SearchConfig.from_dict(parse_yaml(f'model: {{name: a}}\n{text}', 'f.yml'), 'f.yml')


@pytest.mark.parametrize(('written', 'value'), [
    ('1e9', 10 ** 9), ('1E9', 10 ** 9), ('1.5e9', 15 * 10 ** 8), ('2.0', 2), ('1_000_000', 10 ** 6), ('0x10', 16), ('0o17', 15),
    ('0b11', 3), ('+7', 7), ('"1e9"', 10 ** 9)])
def test_whole_numbers(written: str, value: int) -> None:
    got = config(f'objective: {{maxMacs: {written}}}').objective.max_macs
    assert got == value and type(got) is int


@pytest.mark.parametrize(('written', 'value'), [('1e-3', 1e-3), ('1.e-3', 1e-3), ('.5', .5), ('5.0e-3', 5e-3), ('1', 1.0)])
def test_fractions(written: str, value: float) -> None:
    assert config(f'evaluation: {{learningRate: {written}}}').evaluation.learning_rate == value


@pytest.mark.parametrize(('written', 'says'), [
    ('010', 'octal'), ('08', 'octal'), ('1:30', 'base 60'), ('1__0', 'underscores'), ('2024-01-31', 'date'),
    ('yes', 'truth value'), ('off', 'truth value'), ('1.5', 'integer'), ('.inf', 'integer'), ('~x', 'integer'),
    ('true', 'integer'), ('1e400', 'integer'), ('1e-1', 'integer'), ('"010"', 'integer')])
def test_numbers_that_may_be_another_are_refused_in_words(written: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf'f.yml: objective.maxMacs: .*{says}'):
        config(f'objective: {{maxMacs: {written}}}')


@pytest.mark.parametrize('written', ['1:30', '0:90', '1:30:00', '"1:30"', '010', '1.5', '1.5h', '-5m', 'yes', '2024-01-31',
                                     '1e-3'])
def test_durations_that_may_be_another_are_refused_in_words(written: str) -> None:
    with pytest.raises(ConfigError, match="maxTrialDuration: should be a duration such as 90, '90s'"):
        config(f'maxTrialDuration: {written}')


@pytest.mark.parametrize(('written', 'seconds'),
                         [('90', 90), ('90s', 90), ('2m', 120), ('1h', 3600), ('1e3', 1000), ('"90"', 90)])
def test_durations(written: str, seconds: int) -> None:
    assert config(f'maxTrialDuration: {written}').max_trial_duration == seconds


@pytest.mark.parametrize('name', ['1.10', 'no', 'on', '010', '2024-01-31', '1_000', '1e9', '0x10', '123', 'y', '3.0'])
def test_names_are_what_was_written(name: str) -> None:
    read = config(f'experimentName: {name}\nslots: {{include: [{name}]}}')
    assert read.experiment_name == name and type(read.experiment_name) is str
    assert read.slots.include == (name,)
    again = SearchConfig.from_dict(parse_yaml(read.to_yaml(), 'g.yml'))
    assert again == read and SearchConfig.from_dict(yaml.safe_load(read.to_yaml())) == read


@pytest.mark.parametrize(('written', 'value'), [
    ('yes', True), ('no', False), ('on', True), ('Off', False), ('true', True), ('~', None), ('1e-1', 0.1), ('0x10', 16),
    ('"yes"', 'yes'), ('relu', 'relu'), ('[1, no]', [1, False]), ('{no: yes}', {'no': True})])
def test_arguments_for_others_are_plain_data(written: str, value: Any) -> None:
    got = SearchConfig.from_dict(parse_yaml(f'model: {{name: a, x: {written}}}', 'f.yml')).model.kwargs['x']
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize('written', ['010', '1:30', '2024-01-31', '.nan', '.inf', '0x' + 'f' * 20, '[[1, 010]]', '{a: 1:30}'])
def test_arguments_for_others_are_not_guessed(written: str) -> None:
    with pytest.raises(ConfigError, match=r'model.x: .*'):
        SearchConfig.from_dict(parse_yaml(f'model: {{name: a, x: {written}}}', 'f.yml'), 'f.yml')


@pytest.mark.parametrize('digits', ['9' * 100_000, '0x' + 'f' * 100_000, '0o' + '7' * 100_000, '0b' + '1' * 100_000,
                                    '1' + ':59' * 100_000, '0' * 100_000, '1_' * 50_000 + '1', '1e' + '9' * 100_000,
                                    '1.' + '0' * 100_000, '-' + '9' * 100_000])
@pytest.mark.parametrize('where', ['maxTrialNumber: {}', 'model: {{name: a, x: {}}}', 'objective: {{minSpeedup: {}}}',
                                   'maxTrialDuration: {}', 'strategy: {{classArgs: {{x: {}}}}}',
                                   'space: {{limits: {{steps: {}}}}}'])
def test_endless_numbers_are_one_short_line(digits: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(parse_yaml(where.format(digits), 'f.yml'), 'f.yml')
    assert len(str(caught.value)) < 1000 and '\n' not in str(caught.value)


@pytest.mark.parametrize('value', ['1e-3', '010', 'yes', 'y', '2020-01-01', '1:30', '1_000', 1e-5, 1e20, 0.1, 5, None, True,
                                   'null', '~', '0o17', '1.10', '', 'a: b', '.inf', '1e9', math.inf, 'a\nb', '\u202e'])
def test_what_is_written_reads_back_here_and_elsewhere(value: Any) -> None:
    text = dump_yaml({'a': value})
    for got in (parse_yaml(text, 'f.yml')['a'], yaml.safe_load(text)['a']):
        assert got == value and isinstance(got, type(value))


@pytest.mark.parametrize('tag',
                         ['!!int "3"', '!!bool x', '!!float "1:1"', '!!timestamp 2020-01-01', '!!binary aa', '!!set {a}'])
def test_tags_are_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match='could not determine a constructor'):
        parse_yaml(f'a: {tag}', 'f.yml')


def test_half_characters_are_refused() -> None:
    for escape in (r'"\ud800"', r'"\0"'):
        with pytest.raises(ConfigError, match='is no character of a text'):
            parse_yaml(f'a: {escape}', 'f.yml')


def test_tens_of_thousands_of_keys_are_refused_in_a_short_line() -> None:
    with pytest.raises(ConfigError, match='more than 20000 keys'):
        parse_yaml('\n'.join(f'k{i}: 1' for i in range(40_000)), 'f.yml')
    with pytest.raises(ConfigError, match='and 39996 more$') as caught:
        SearchConfig.from_dict({f'k{i}': 1 for i in range(40_000)})
    assert len(str(caught.value)) < 3000


def test_the_packaged_file_is_read_as_it_stands() -> None:
    path = Path(__file__).parents[2] / 'examples' / 'quickstart.yml'
    plain = yaml.safe_load(path.read_text())
    assert load_config() == load_config(path) == SearchConfig.from_dict(plain)
