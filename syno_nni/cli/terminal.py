"""The one door to the terminal: what commands print goes through :func:`say`, whatever file, name or message it comes from.

Control characters and terminal escapes are made visible, and a terminal that cannot show a character (``LANG=C``,
``PYTHONIOENCODING=ascii``) gets another one for it instead of an exception.
"""
from __future__ import annotations

import argparse
import codecs
import io
import logging
import os
import sys
import traceback
import warnings
from typing import NoReturn

from syno_nni.text import LONGEST_ERROR, one_line, shorten, visible

_ERRORS = 'syno_nni.readable'
_ASCII = {'…': '...', '→': '->', '←': '<-', '×': 'x', '±': '+-', '·': '*', '–': '-', '—': '-', '≤': '<=', '≥': '>=',
          'µ': 'u', '“': '"', '”': '"', '‘': "'", '’': "'", '\N{NO-BREAK SPACE}': ' ',
          'Σ': 'sum', '─': '-', '│': '|', '├': '|', '└': '`', '┬': '+', '●': '#', '○': 'o',
          '◆': '@', '◇': 'o', '█': '#', '▓': '%', '▒': '=', '░': '-'}


def say(text: object = '', *, end: str = '\n') -> None:
    """Print lines of text on stdout."""
    print(visible(str(text), keep='\n\t'), end=end, flush=True)


def complain(text: object) -> None:
    """Print one line of bounded length on stderr."""
    print(shorten(one_line(text), LONGEST_ERROR), file=sys.stderr)


def prepare_streams() -> None:
    """Let stdout and stderr take any character; and let what Python writes there by itself, warnings and tracebacks, go through
    this door."""
    sys.excepthook = lambda kind, error, trace: complain_at_length(error)
    warnings.showwarning = _warn
    codecs.register_error(_ERRORS, _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: the nearest ASCII, or an escape such as ``\\u5b57``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    piece = error.object[error.start:error.end]
    return ''.join(_ASCII.get(c) or c.encode('ascii', 'backslashreplace').decode() for c in piece), error.end


def forget_stdout() -> None:
    """Point stdout nowhere, or Python complains on exit that it could not write what was left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    logging.getLogger('py.warnings').warning('%s: %s', category.__name__, shorten(one_line(message), LONGEST_ERROR))


def complain_at_length(error: BaseException) -> None:
    """Print a traceback on stderr."""
    print(visible(''.join(traceback.format_exception(error)), keep='\n\t'), end='', file=sys.stderr)


class Formatter(logging.Formatter):
    """Log messages, made visible."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep='\n\t')


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors show what was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(shorten(one_line(message), LONGEST_ERROR))
