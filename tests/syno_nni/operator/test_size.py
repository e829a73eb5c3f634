from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syno_nni.errors import SizeError
from syno_nni.operator.size import MAX_EXPONENT, ONE, Size, check_binding, product

BINDING = {'C_in': 64, 'C_out': 128, 'H': 14, 'g': 32, 's': 2, 'k_1': 3}
HUGE = pytest.param(10 ** 5000, id='huge')  # more digits than str() takes
names = st.sampled_from(['C_in', 'C_out', 'H', 'W', 'g', 's', 'k_1', 'x'])
sizes = st.builds(lambda powers, n, d: Size(powers.items(), Fraction(n, d)),
                  st.dictionaries(names, st.integers(-5, 5), max_size=5), st.integers(1, 30), st.integers(1, 30))


@pytest.mark.parametrize(('text', 'value'), [
    ('C_in', 64), ('C_in/g', 2), ('g^-1*C_in', 2), ('2*s*H', 56), ('C_out/(g*s)', 2), ('C_out/g/s', 2), ('1', 1),
    ('k_1^2*s', 18), ('C_in^2/g^2', 4), ('(C_out)', 128), (' C_in / g ', 2), ('H*g/g', 14), ('2/2', 1), ('28/s', 14),
])
def test_parse_and_value(text: str, value: int) -> None:
    assert Size.parse(text).value(BINDING) == value


@pytest.mark.parametrize(('text', 'printed'), [
    ('g^-1*s^-1*C_out', 'C_out/g/s'), ('C_in*H*2', '2*C_in*H'), ('1/g', '1/g'), ('H/2', 'H/2'), ('x/x', '1'),
    ('C_in/g^2', 'C_in/g^2'), ('s*g', 'g*s'),
])
def test_printed_form(text: str, printed: str) -> None:
    assert str(Size.parse(text)) == printed


@given(sizes)
def test_every_size_prints_and_parses_back(size: Size) -> None:
    assert Size.parse(str(size)) == size
    assert pickle.loads(pickle.dumps(size)) == copy.deepcopy(size) == size


@given(sizes, sizes)
def test_arithmetic_is_that_of_the_values(a: Size, b: Size) -> None:
    at = {v: 2 + i for i, v in enumerate(['C_in', 'C_out', 'H', 'W', 'g', 's', 'k_1', 'x'])}
    assert (a * b).ratio(at) == a.ratio(at) * b.ratio(at)
    assert (a / b).ratio(at) == a.ratio(at) / b.ratio(at)
    assert (a ** -2).ratio(at) == a.ratio(at) ** -2
    assert a / a == ONE and (a * b) / b == a and a * b == b * a
    assert product([a, b, b]) == a * b ** 2
    assert (a < b) != (b < a) or a == b


@given(sizes)
def test_integers_are_exact(size: Size) -> None:
    at = dict.fromkeys(('C_in', 'C_out', 'H', 'W', 'g', 's', 'k_1', 'x'), 6)
    if size.ratio(at).denominator == 1:
        assert size.is_integer([at]) and size.value(at) == size.ratio(at)
    else:
        assert not size.is_integer([at])
        with pytest.raises(SizeError, match='not an integer'):
            size.value(at)


def test_numbers_mix_in() -> None:
    assert str(2 * Size.parse('H') / 's' * 'C_in') == '2*C_in*H/s'


def test_all_bindings_at_once() -> None:
    bindings = [{'C_in': 64, 'g': 32}, {'C_in': 96, 'g': 64}]
    size = Size.parse('C_in/g')
    assert not size.is_integer(bindings) and size.is_integer(bindings[:1])
    assert size.ratios(iter(bindings)) == [2, Fraction(3, 2)]
    with pytest.raises(SizeError, match=r"C_in/g is not an integer at \{'C_in': 96, 'g': 64\}.* remainder 32"):
        size.value(bindings[1])
    with pytest.raises(SizeError, match='at least one binding'):
        size.ratios([])


def test_messages_name_size_binding_and_remainder() -> None:
    with pytest.raises(SizeError) as caught:
        Size.parse('C_out/k_1').value(BINDING)
    assert str(caught.value) == ("size C_out/k_1 is not an integer at {'C_out': 128, 'k_1': 3}: 128 leaves remainder 2 "
                                 'when divided by 3; choose values that divide exactly')
    with pytest.raises(SizeError, match=r"size C_in/q needs variable 'q', and the binding gives only C_in, C_out"):
        Size.parse('C_in/q').value(BINDING)


@pytest.mark.parametrize('value', [0, -1, 1.5, 2.0, float('nan'), True, None, '3', [3], 10 ** 12, HUGE,
                                   np.array([1, 2]), np.float64(3)])
def test_a_binding_holds_positive_integers(value: object) -> None:
    with pytest.raises(SizeError, match="'H' must be a positive integer"):
        Size.parse('H').value({'H': value})  # type: ignore[dict-item]
    with pytest.raises(SizeError, match="'H' must be a positive integer"):
        check_binding({'H': value})


def test_numpy_integers_are_integers() -> None:
    assert type(Size.parse('H').value({'H': np.int64(7)})) is int
    assert check_binding({'H': np.int32(7)}) == {'H': 7}


@pytest.mark.parametrize('binding', [None, 3, [('H', 3)], 'H', {3: 3}])
def test_a_binding_is_a_dict(binding: object) -> None:
    with pytest.raises(SizeError):
        check_binding(binding)


@pytest.mark.parametrize('text', [
    '', ' ', '*', 'C_in*', '/g', 'C_in g', 'C_in//g', '0', '-3', 'C_in-1', 'C+1', '1.5', 'H^', 'H^x', 'H^1.5', 'H^65',
    'H^-65', 'H^99999999', '(H', 'H)', '()', '(' * 5000 + 'H', 'H' * 5000, 'H' * 65, '9' * 13, '9' * 5000,
    '*'.join(f'x{i}' for i in range(17)), 'H^64*H', '999999999999*999999999999', 'nan/', 'Ö', '٣', '\ufeffH', 'H\0',
    'H;;', '*'.join(['H'] * 2000), 7, None, 1.0, [], True,
])
def test_malformed_sizes_are_refused(text: object) -> None:
    with pytest.raises(SizeError):
        Size.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize('value', [0, -2, True, 1.5, None, 10 ** 12, HUGE, ['H'], b'H'])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(SizeError):
        Size.of(value)  # type: ignore[arg-type]


@pytest.mark.parametrize('exponent', [MAX_EXPONENT + 1, 10 ** 30, 1.5, 'x'])
def test_powers_are_bounded(exponent: object) -> None:
    with pytest.raises(SizeError):
        Size.parse('2*H') ** exponent  # type: ignore[operator]
