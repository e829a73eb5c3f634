"""A text as a row of names, numbers and symbols: what the readers of sizes and of formulas have in common."""
from __future__ import annotations

import re

from syno_nni.errors import SynoError

_TOKEN = re.compile(r'\s*(?:(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<number>[0-9]+)|(?P<symbol>//|[\[\](),:=*/%+^-]))')


class Tokens:
    """The tokens of a text and how many of them are read.

    Args:
        text: what to read.
        what: what the text should be, for messages.
        error: the error that malformed text raises.
        nesting: so many parentheses may stand within each other.
        advice: what a message ends with.

    Raises:
        error: the text holds something that is no token.
    """

    def __init__(self, text: str, what: str, error: type[SynoError], nesting: int, advice: str = '') -> None:
        self.text = text
        self._what, self._error, self._nesting, self._advice = what, error, nesting, advice
        self._tokens: list[tuple[str, str, int]] = []  # kind, token, where it starts
        self._position = 0
        self._depth = 0
        end = 0
        stripped = text.rstrip()
        while end < len(stripped):
            match = _TOKEN.match(stripped, end)
            if match is None:
                at = end + len(stripped[end:]) - len(stripped[end:].lstrip())
                raise self.error(f'unexpected {stripped[at]!r} at {self._place(at)}')
            end = match.end()
            kind = match.lastgroup or ''
            self._tokens.append((kind, match[kind], match.start(kind)))
        self._tokens.append(('', '', end))

    # complaints
    def error(self, message: str) -> SynoError:
        """An error that says what could not be read and why."""
        return self._error(f'cannot read {self._what}: {message}{self._advice}')

    def wanted(self, what: str) -> SynoError:
        """An error that says what was wanted in place of the next token."""
        if self.at_end:
            return self.error(f'wanted {what}, but the text ends after {self.text[-30:]!r}')
        _, token, at = self._tokens[self._position]
        return self.error(f'wanted {what}, got {token[:40]!r} at {self._place(at)}')

    def _place(self, at: int) -> str:
        return f'column {at + 1} of {self.text[max(0, at - 30):at + 30]!r}'

    # reading
    @property
    def at_end(self) -> bool:
        """Whether everything is read."""
        return not self._tokens[self._position][0]

    def next(self, kind: str = '') -> str:
        """The next token, unread; empty at the end, and where it is not of ``kind`` (name, number or symbol)."""
        found, token, _ = self._tokens[self._position]
        return token if not kind or found == kind else ''

    def read(self) -> str:
        """Reads the next token; there must be one."""
        token = self.next()
        self._position += 1
        return token

    def take(self, token: str) -> bool:
        """Reads ``token`` if it is the next one; whether it was."""
        if self._tokens[self._position][1] == token:
            self._position += 1
            return True
        return False

    def expect(self, token: str) -> None:
        """Reads ``token``.

        Raises:
            error: another one is there.
        """
        if not self.take(token):
            raise self.wanted(repr(token))

    def descend(self, what: str) -> None:
        """Goes one level down in what may nest.

        Raises:
            error: that is too deep; says so of ``what``.
        """
        self._depth += 1
        if self._depth > self._nesting:
            raise self.wanted(f'at most {self._nesting} nested {what}')

    def ascend(self) -> None:
        """Goes one level up again."""
        self._depth -= 1
