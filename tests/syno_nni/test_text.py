from __future__ import annotations

import pytest

from syno_nni.text import columns, duration, one_line, quantity, shorten


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
