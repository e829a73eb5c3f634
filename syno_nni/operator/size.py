"""Symbolic sizes: monomials of variables, such as ``C_in/g`` or ``2*s*H``, with exact arithmetic.

A *binding* maps variable names to positive integers (one binding per slot of a backbone). A size has an exact
rational value at every binding; asking for an integer that is not there raises an error naming size, binding and
remainder.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, SupportsIndex, Union

from syno_nni.errors import SizeError, shown

from .tokens import Tokens

Binding = Mapping[str, int]
SizeLike = Union['Size', str, int]

# Far beyond any real size, and small enough that no arithmetic on sizes takes long.
MAX_EXPONENT = 64
MAX_VARIABLES = 16
MAX_NAME = 64
MAX_NUMBER = 10 ** 12
MAX_LENGTH = 2000  # the text of any size is shorter
MAX_NESTING = 20


class Size:
    """An immutable monomial ``coefficient * prod(variable ** exponent)``.

    ``Size.parse('C_out/g') * Size.parse('g')`` is ``C_out``. Sizes compare equal when they are the same monomial and
    sort by a fixed (not numeric) order.
    """

    __slots__ = ('_hash', 'coefficient', 'powers')
    coefficient: Fraction
    powers: tuple[tuple[str, int], ...]

    def __init__(self, powers: Iterable[tuple[str, int]] = (), coefficient: int | Fraction = 1, *,
                 internal: bool = False) -> None:
        # What people write has bounds. A product that is only compared, such as the volume of a loop nest over a large
        # layer, has none.
        self.powers = tuple(sorted((v, e) for v, e in powers if e))
        self.coefficient = Fraction(coefficient)
        self._hash = hash((self.powers, self.coefficient))
        if internal:
            return
        if not 0 < self.coefficient.numerator < MAX_NUMBER or self.coefficient.denominator >= MAX_NUMBER:
            raise SizeError(f'the number in a size must be positive, with at most 12 digits above and below the line; '
                            f'got {shown(self.coefficient)}')
        if len(self.powers) > MAX_VARIABLES:
            raise SizeError(f'a size may have at most {MAX_VARIABLES} variables, got {len(self.powers)}')
        for variable, exponent in self.powers:
            if not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
                raise SizeError(f'exponents in a size must lie within +-{MAX_EXPONENT}, got {shown(exponent)} for '
                                f'{variable}')

    @staticmethod
    def of(value: SizeLike) -> Size:
        """The size that a Size, a formula text or a positive integer means."""
        if isinstance(value, Size):
            return value
        if isinstance(value, bool):
            raise SizeError(f'a size must be a Size, a str or a positive int, got {value!r}')
        if isinstance(value, int):
            return Size((), value)
        if isinstance(value, str):
            return Size.parse(value)
        raise SizeError(f'a size must be a Size, a str or a positive int, got {type(value).__name__}')

    @staticmethod
    def parse(text: str) -> Size:
        """Reads ``C_in``, ``2*k_1*C_out^2/g^2``, ``g^-1*C_out`` or ``C_out/(g*s)``.

        Raises:
            SizeError: the text is not a monomial.
        """
        if not isinstance(text, str):
            raise SizeError(f'a size must be text such as C_in/g, got {shown(text)}')
        return _parse(text)

    # arithmetic
    def __mul__(self, other: SizeLike) -> Size:
        return _combine(self, Size.of(other), 1)

    def __truediv__(self, other: SizeLike) -> Size:
        return _combine(self, Size.of(other), -1)

    __rmul__ = __mul__

    def __pow__(self, exponent: int) -> Size:
        if not isinstance(exponent, int) or abs(exponent) > MAX_EXPONENT:
            raise SizeError(f'a size may be raised to an integer within +-{MAX_EXPONENT}, got {shown(exponent)}')
        return Size(((v, e * exponent) for v, e in self.powers), self.coefficient ** exponent)

    # identity and order
    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Size) and self._hash == other._hash
                                 and self.powers == other.powers and self.coefficient == other.coefficient)

    def __hash__(self) -> int:
        return self._hash

    @property
    def sort_key(self) -> tuple[tuple[tuple[str, int], ...], int, int]:
        return self.powers, self.coefficient.numerator, self.coefficient.denominator

    def __lt__(self, other: Size) -> bool:
        if not isinstance(other, Size):
            return NotImplemented
        return self.sort_key < other.sort_key

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached hash differs between processes, so a pickle must not carry it.
        return Size, (self.powers, self.coefficient)

    # values
    @property
    def variables(self) -> frozenset[str]:
        return frozenset(v for v, _ in self.powers)

    @property
    def is_one(self) -> bool:
        return not self.powers and self.coefficient == 1

    def exponent(self, variable: str) -> int:
        return next((e for v, e in self.powers if v == variable), 0)

    def ratio(self, binding: Binding) -> Fraction:
        """The exact rational value at ``binding``.

        Raises:
            SizeError: a variable is unbound, or bound to something that is not a positive integer.
        """
        value = self.coefficient
        for variable, exponent in self.powers:
            value *= Fraction(_bound(self, variable, binding)) ** exponent
        return value

    def value(self, binding: Binding) -> int:
        """The integer value at ``binding``.

        Raises:
            SizeError: a variable is unbound, or the value is not an integer; names size, binding and remainder.
        """
        top, bottom = self.coefficient.numerator, self.coefficient.denominator
        for variable, exponent in self.powers:
            number = _bound(self, variable, binding)
            if exponent > 0:
                top *= number ** exponent
            else:
                bottom *= number ** -exponent
        quotient, rest = divmod(top, bottom)
        if rest:
            used = {v: binding[v] for v, _ in self.powers}
            raise SizeError(f'size {self} is not an integer at {used}: {top} leaves remainder {rest} when divided by '
                            f'{bottom}; choose values that divide exactly')
        return quotient

    def ratios(self, bindings: Iterable[Binding]) -> list[Fraction]:
        """The exact value at each of ``bindings``.

        Raises:
            SizeError: there is no binding, or one does not give a variable.
        """
        values = [self.ratio(b) for b in bindings]
        if not values:
            raise SizeError(f'size {self} has no value over no bindings; pass at least one binding')
        return values

    def is_integer(self, bindings: Iterable[Binding]) -> bool:
        """Whether the size is an integer at every one of ``bindings``."""
        return all(self.ratio(b).denominator == 1 for b in bindings)

    def __str__(self) -> str:
        over = [f'{v}^{e}' if e > 1 else v for v, e in self.powers if e > 0]
        under = [f'{v}^{-e}' if e < -1 else v for v, e in self.powers if e < 0]
        number, denominator = self.coefficient.numerator, self.coefficient.denominator
        if number != 1 or not over:
            over.insert(0, str(number))
        if denominator != 1:
            under.insert(0, str(denominator))
        return '/'.join(['*'.join(over), *under])

    def __repr__(self) -> str:
        return f'Size({str(self)!r})'


ONE = Size()


@lru_cache(maxsize=65536)
def _combine(a: Size, b: Size, sign: int) -> Size:
    powers = dict(a.powers)
    for variable, exponent in b.powers:
        powers[variable] = powers.get(variable, 0) + sign * exponent
    size = Size(powers.items(), a.coefficient * b.coefficient if sign > 0 else a.coefficient / b.coefficient)
    return _interned(size.powers, size.coefficient)


@lru_cache(maxsize=65536)
def _interned(powers: tuple[tuple[str, int], ...], coefficient: Fraction) -> Size:
    """One object per value, so that comparing sizes is mostly comparing identities."""
    return Size(powers, coefficient)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; ``1`` of none."""
    result = ONE
    for size in sizes:
        result = result * size
    return result


def _bound(size: Size, variable: str, binding: Binding) -> int:
    try:
        number = binding[variable]
    except (KeyError, TypeError):
        given = ', '.join(map(str, list(binding)[:20])) if isinstance(binding, Mapping) else shown(binding)
        raise SizeError(f'size {size} needs variable {variable!r}, and the binding gives only {given or "nothing"}; '
                        f'add {variable!r} to the binding') from None
    return _number(variable, number)


def _number(variable: str, number: object) -> int:
    if type(number) is not int:
        if isinstance(number, bool) or not isinstance(number, SupportsIndex):
            raise SizeError(f'variable {variable!r} must be a positive integer, got {shown(number)}')
        try:
            number = number.__index__()
        except TypeError:  # an array with more than one element, for instance
            raise SizeError(f'variable {variable!r} must be a positive integer, got {shown(number)}') from None
    if not 0 < number < MAX_NUMBER:
        raise SizeError(f'variable {variable!r} must be a positive integer below 10^12, got {shown(number)}')
    return number


def check_binding(binding: object) -> dict[str, int]:
    """``binding`` as a plain dict, or a SizeError that says what is wrong with it."""
    if not isinstance(binding, Mapping):
        raise SizeError(f'a binding must be a dict of variable names to positive integers, got {shown(binding)}')
    result = {}
    for variable, number in binding.items():
        if not isinstance(variable, str):
            raise SizeError(f'a binding names variables by str, got {shown(variable)}')
        result[variable] = _number(variable, number)
    return result


# ---- reading ----

@lru_cache(maxsize=4096)
def _parse(text: str) -> Size:
    if not text.strip() or len(text) > MAX_LENGTH:
        raise SizeError(f'a size must be a short text such as C_in/g, got {shown(text)}')
    tokens = Tokens(text, 'size', SizeError, MAX_NESTING, '; write a product such as 2*C_out^2/(g*s)')
    size = read_size(tokens)
    if not tokens.at_end:
        raise tokens.wanted('"*" or "/"')
    return size


def read_size(tokens: Tokens) -> Size:
    """Reads a product such as ``2*C_out^2/(g*s)``, as far as it goes.

    Raises:
        SynoError: that of ``tokens``, where there is none; a SizeError where its numbers or exponents are too large.
    """
    size = read_factor(tokens)
    while (symbol := tokens.next()) in ('*', '/'):
        tokens.read()
        factor = read_factor(tokens)
        size = size * factor if symbol == '*' else size / factor
    return size


def read_factor(tokens: Tokens) -> Size:
    """Reads one factor of a product: a name, a number, a power of one, or a product in parentheses.

    Raises:
        SynoError: as `read_size`.
    """
    if tokens.take('('):
        tokens.descend('parentheses')
        size = read_size(tokens)
        tokens.expect(')')
        tokens.ascend()
        return size
    if name := tokens.next('name'):
        if len(name) > MAX_NAME:
            raise tokens.wanted(f'a name of at most {MAX_NAME} characters')
        base = _interned(((name, 1),), ONE.coefficient)
    elif number := tokens.next('number'):
        if len(number) > 12 or int(number) == 0:
            raise tokens.wanted('a positive number of at most 12 digits')
        base = Size((), int(number))
    else:
        raise tokens.wanted('a size such as C_in/g: a name or a number')
    tokens.read()
    return base ** _read_exponent(tokens) if tokens.take('^') else base


def _read_exponent(tokens: Tokens) -> int:
    sign = -1 if tokens.take('-') else 1
    digits = tokens.next('number')
    if not digits or len(digits) > 3 or int(digits) > MAX_EXPONENT:
        raise tokens.wanted(f'an exponent within +-{MAX_EXPONENT}')
    return sign * int(tokens.read())
