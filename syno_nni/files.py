"""The one door through which files come in: regular files of a bounded size only, every fault an error of one line.

A named pipe would wait for a writer, a device never end, a sparse file fill the memory; a path may hold NUL, be too long, go
in circles or vanish meanwhile. Readers of whatever a user names go through :func:`read_bytes` and its companions; libraries
that open files themselves (safetensors, torch, torchvision) get a path that :func:`check_file` has looked at.
"""
from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import SynoError, shown

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
EXPERIMENT_BYTES = MIB
"""Experiment files and files for nnictl."""
DESCRIPTION_BYTES = 16 * MIB
"""JSON descriptions: operators, zoo entries, a folder's ``config.json``, ``graph.dot``."""
JOURNAL_BYTES = GIB
DATASET_BYTES = 4 * GIB
"""One file of a dataset (IDX, CIFAR)."""
IMAGE_BYTES = 256 * MIB
"""One image of an image folder."""
WEIGHTS_BYTES = 64 * GIB
"""Checkpoints, which their libraries read."""

_SORTS = ((stat.S_ISDIR, 'a directory'), (stat.S_ISFIFO, 'a named pipe'), (stat.S_ISSOCK, 'a socket'),
          (stat.S_ISCHR, 'a device'), (stat.S_ISBLK, 'a device'))
_LONGEST_SHOWN = 300


def read_bytes(path: str | os.PathLike[str], *, limit: int, error: type[SynoError] = SynoError,
               what: str = 'the file') -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes.

    Args:
        path: of the file.
        limit: greatest size in bytes; see the constants of this module.
        error: the class of what is raised.
        what: what the file should be, as messages call it.

    Raises:
        SynoError: of class ``error``: it is missing, not readable, no regular file, or too large.
    """
    with open_file(path, limit=limit, error=error, what=what) as file:
        try:
            data = file.read(limit + 1)
        except OSError as fault:
            raise error(_cannot_read(path, what, fault)) from None
    if data is None:  # a file of the kernel's that is regular by name and would wait for something to read
        raise error(_cannot_read(path, what, BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))))
    if len(data) > limit:  # it has grown, or its size was not told
        raise error(_too_large(path, what, limit))
    return data


def read_text(path: str | os.PathLike[str], *, limit: int, error: type[SynoError] = SynoError, what: str = 'the file') -> str:
    """The UTF-8 text of a file, without a byte order mark; as :func:`read_bytes`.

    Raises:
        SynoError: also when it is no UTF-8.
    """
    data = read_bytes(path, limit=limit, error=error, what=what)
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as fault:
        raise error(f'{show_path(path)}: not UTF-8 text (byte {fault.start})') from None


def read_json(path: str | os.PathLike[str], *, limit: int = DESCRIPTION_BYTES, error: type[SynoError] = SynoError,
              what: str = 'the file') -> Any:
    """The data of a JSON file; as :func:`read_text`.

    Raises:
        SynoError: also when it is no JSON, holds NaN or infinities, or nests too deeply.
    """
    return parse_json(read_text(path, limit=limit, error=error, what=what), show_path(path), error)


def parse_json(text: str | bytes, where: str, error: type[SynoError] = SynoError) -> Any:
    """The data of a JSON text; ``where`` opens the message of what is raised.

    Raises:
        SynoError: of class ``error``: it is no JSON, holds NaN or infinities, or nests too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise error(f'{where}: not JSON: nested too deeply') from None
    except ValueError as fault:  # also a number of more digits than Python reads
        raise error(f'{where}: not JSON: {fault}') from None


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f'{digits[:20]} is a number beyond those of double precision')
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f'{name} is no JSON number')


def check_file(path: str | os.PathLike[str], *, limit: int, error: type[SynoError] = SynoError, what: str = 'the file') -> Path:
    """The path of a regular, readable file of at most ``limit`` bytes, for a library that opens it itself.

    Raises:
        SynoError: as :func:`read_bytes`; also when it is empty, as files of the kernel's seem to be, some of which make their
            reader wait.
    """
    with open_file(path, limit=limit, error=error, what=what) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise error(f'cannot read {what} {show_path(path)}: it is empty')
        return Path(path)


@contextmanager
def open_file(path: str | os.PathLike[str], *, limit: int, error: type[SynoError] = SynoError,
              what: str = 'the file') -> Iterator[BinaryIO]:
    """A regular file of at most ``limit`` bytes, open for reading; for what reads it in parts.

    Raises:
        SynoError: as :func:`read_bytes`, when it is opened; errors of later reads are the caller's.
    """
    try:
        # Looked at before it is opened, for opening some devices does something; and after, for it may have changed.
        _must_be_regular(os.stat(path), path, limit, error, what)
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except SynoError:
        raise
    except (OSError, ValueError) as fault:  # ValueError: NUL in the path; UnicodeEncodeError: half a surrogate pair
        raise error(_cannot_read(path, what, fault)) from None
    try:
        _must_be_regular(os.fstat(descriptor), path, limit, error, what)
        file = os.fdopen(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file


def _must_be_regular(status: os.stat_result, path: object, limit: int, error: type[SynoError], what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise error(f'cannot read {what} {show_path(path)}: it is {sort_of(status.st_mode)}, not a regular file')
    if status.st_size > limit:
        raise error(_too_large(path, what, limit))


def sort_of(mode: int) -> str:
    """What a file that is not regular is, by its mode (``st_mode``), in words."""
    return next((name for test, name in _SORTS if test(mode)), 'no file of bytes')


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something, readable or not; False for paths that there cannot be."""
    try:
        os.stat(path)
    except (OSError, ValueError) as fault:
        return isinstance(fault, OSError) and fault.errno in (errno.EACCES, errno.ELOOP)
    return True


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Whether there is a directory that can be looked at; False for paths that there cannot be."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file; False for paths that there cannot be."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_path(path: str | os.PathLike[str], *, error: type[SynoError] = SynoError, what: str = 'the path') -> Path:
    """A path that may come to exist: no NUL, no part that is too long.

    Raises:
        SynoError: of class ``error``: no file can be called so.
    """
    try:
        os.lstat(path)
    except (OSError, ValueError) as fault:
        if isinstance(fault, OSError) and fault.errno != errno.ENAMETOOLONG:
            return Path(path)  # missing, or out of reach, which whoever opens it will say
        raise error(f'{what} {show_path(path)}: {_reason(fault)}') from None
    return Path(path)


def show_path(path: object) -> str:
    """A path as messages show it: what cannot be printed made visible, its middle left out where it is endless."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        return shown(path)
    text = os.fsdecode(text)
    if len(text) > _LONGEST_SHOWN:
        text = f'{text[:_LONGEST_SHOWN // 2]}...{text[-_LONGEST_SHOWN // 3:]}'
    return text if text.isprintable() else repr(text)


def _cannot_read(path: object, what: str, fault: Exception) -> str:
    return f'cannot read {what} {show_path(path)}: {_reason(fault)}'


def _reason(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return fault.strerror or str(fault)
    return 'no file can be called so' if isinstance(fault, UnicodeError) else 'the path holds a NUL character'


def _too_large(path: object, what: str, limit: int) -> str:
    size = next(f'{limit // unit} {name}' for unit, name in ((GIB, 'GiB'), (MIB, 'MiB'), (KIB, 'KiB'), (1, 'bytes'))
                if limit >= unit)
    return f'{show_path(path)}: larger than {size}, which {what} never is'
