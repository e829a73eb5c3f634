from __future__ import annotations

import pytest

from syno_nni.text import cell, columns, did_you_mean, duration, one_line, quantity, shorten, visible


@pytest.mark.parametrize(('number', 'text'), [
    (None, ''), (0, '0'), (999, '999'), (1000, '1k'), (1814073344, '1.81G'), (12_345, '12.3k'), (5e12, '5T')])
def test_quantity(number: float | None, text: str) -> None:
    assert quantity(number) == text


@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '0 s'), (59.4, '59 s'), (59.6, '1 min 00 s'), (185, '3 min 05 s'), (7620, '2 h 07 min')])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize('width', [1, 2, 5, 9, 10, 11])
def test_shorten_keeps_both_ends(width: int) -> None:
    short = shorten('0123456789', width)
    assert len(short) == min(width, 10)
    if 4 < width < 10:
        assert short[0] == '0' and short[-1] == '9' and '…' in short


def test_columns_and_one_line() -> None:
    assert columns([('a', 'number'), ('long', '1')], right={1}) == 'a     number\nlong       1'
    assert one_line(' a\n\tb ') == 'a b'


@pytest.mark.parametrize(('text', 'shown'), [
    ('plain → ü', 'plain → ü'), ('\x1b[31m', '\\x1b[31m'), ('a\rb\x00', 'a\\rb\\x00'), ('\u202eabc', '\\u202eabc'),
    ('\x9b', '\\x9b'),
    ('\ud800', '\\ud800'), ('\u2028', '\\u2028'), ('\u200b', '\\u200b'), ('a\nb', 'a\\nb')])
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text, keep='\n') == (text if '\n' in text else shown)


def test_cells_are_one_visible_line_of_bounded_length() -> None:
    assert cell('a\n\x1b b' * 1000, 50).isprintable() and len(cell('a' * 1000, 50)) == 50
    assert '\n' not in columns([('a',), ('b\nc',)]).splitlines()[1] and len(columns([('x' * 10_000,)])) == 300


def test_did_you_mean() -> None:
    assert did_you_mean('epoch', ['epochs', 'seed']) == "did you mean 'epochs'?"
    assert did_you_mean('zzz', ['epochs', 'seed']) == 'choose from epochs, seed'
    assert did_you_mean('zzz', ['epochs'], otherwise='') == ''
    assert did_you_mean('x' * 100_000, ['x' * 100] * 1000, otherwise='far') == 'far'
