"""Plain-text forms of numbers, tables and hints, shared by messages, reports and commands; and the one door through which
text from outside goes to a terminal: :func:`visible`."""
from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable, Sequence

LONGEST_ERROR = 2000
"""Characters of an error message on the terminal."""
_HIDDEN = frozenset(('Cc', 'Cf', 'Cs', 'Co', 'Zl', 'Zp'))
# Unicode categories that a terminal obeys or does not show: controls (escape sequences begin with one), marks of direction
# and width, half surrogate pairs, private use, separators of lines.


def quantity(number: float | None) -> str:
    """A count with a metric prefix: 1814073344 is ``1.81G``; None is empty."""
    if number is None:
        return ''
    for limit, prefix in ((10 ** 12, 'T'), (10 ** 9, 'G'), (10 ** 6, 'M'), (10 ** 3, 'k')):
        if abs(number) >= limit:
            return f'{number / limit:.3g}{prefix}'
    return f'{number:g}'


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, an ellipsis in place of its middle."""
    if len(text) <= width:
        return text
    tail = max((width - 1) // 3, 0)
    return f'{text[:width - 1 - tail]}…{text[len(text) - tail:]}'


def one_line(text: object) -> str:
    """Any text on a single line, as :func:`visible` shows it."""
    return visible(' '.join(str(text).split()))


def visible(text: str, keep: str = '') -> str:
    """``text`` with everything that a terminal would obey or hide written as an escape: ``\\x1b``, ``\\u202e``. The
    characters in ``keep``, such as a newline, stay."""
    if text.isascii() and text.isprintable():
        return text
    return ''.join(c if c in keep or unicodedata.category(c) not in _HIDDEN else c.encode('unicode_escape').decode()
                   for c in text)


def cell(text: object, width: int = 200) -> str:
    """What a table shows of any value: one visible line of bounded length."""
    return shorten(one_line(text), width)


def near(name: object, names: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """The known names that somebody may have meant by an unknown one, closest first."""
    text = str(name)
    # A name that is much longer than any known one is near to none, and comparing takes the square of its length.
    return difflib.get_close_matches(text, list(names), n=n, cutoff=cutoff) if len(text) <= 100 else []


def did_you_mean(name: object, names: Iterable[str], n: int = 1, *, cutoff: float = 0.6, otherwise: str | None = None) -> str:
    """The end of a message about an unknown name: the names closest to it, else ``otherwise``, else all names.

    >>> did_you_mean('epoch', ['epochs', 'seed'])
    "did you mean 'epochs'?"
    >>> did_you_mean('x', ['epochs', 'seed'])
    'choose from epochs, seed'
    """
    known = list(names)
    close = near(name, known, n, cutoff)
    if close:
        return f'did you mean {" or ".join(repr(c) for c in close)}?'
    return f'choose from {", ".join(known)}' if otherwise is None else otherwise


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells (the first is the head) in aligned columns; those numbered in ``right`` are flush right. Each row is a
    visible line."""
    rows = [[shorten(visible(text), 300) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ('  '.join(cell.rjust(width) if i in right else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)
    return '\n'.join(lines)
