"""Only regular files of a bounded size come in; everything else is one clear line, at once."""
from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from syno_nni.errors import JournalError
from syno_nni.files import (
    check_file,
    check_path,
    exists,
    is_directory,
    is_file,
    open_file,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _sparse(path: Path) -> None:
    with path.open('wb') as file:
        file.truncate(1 << 40)


ODD: list[tuple[Callable[[Path], object], str]] = [
    (os.mkfifo, 'a named pipe, not a regular file'), (lambda path: path.mkdir(), 'a directory, not a regular file'),
    (_socket, 'a socket, not a regular file'), (_loop, 'Too many levels of symbolic links'), (_sparse, 'larger than 1 KiB'),
    (lambda path: path.symlink_to('/dev/zero'), 'a device, not a regular file'),
    (lambda path: path.symlink_to('gone'), 'No such file'), (lambda path: None, 'No such file')]


@pytest.mark.parametrize('read', [read_bytes, read_text, read_json, check_file])
@pytest.mark.parametrize(('make', 'message'), ODD)
def test_what_is_no_plain_file_is_refused_at_once(make: Callable[[Path], object], message: str, read: Callable[..., object],
                                                  tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'file')
    with pytest.raises(JournalError, match=message) as caught:
        read(tmp_path / 'file', limit=1024, error=JournalError, what='the journal')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('path', ['a\0b', 'x' * 300, '/'.join(['d' * 200] * 30), '\ud800', 'file\x1b[31m', '\n'])
def test_paths_that_cannot_be(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JournalError) as caught:
        read_bytes(path, limit=10, error=JournalError)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert not exists(path) and not is_directory(path) and not is_file(path)


def test_paths_that_may_come_to_be() -> None:
    assert check_path('nowhere/yet') == Path('nowhere/yet')
    for path in ('x' * 300, 'a\0b'):
        with pytest.raises(JournalError):
            check_path(path, error=JournalError)


def test_a_file_that_vanishes_or_grows(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    path.write_bytes(b'12345')
    with open_file(path, limit=5) as file:
        path.unlink()
        assert file.read() == b'12345'
    # Files of the kernel's tell no size.
    with pytest.raises(JournalError, match='larger than 16 bytes'):
        read_bytes('/proc/self/status', limit=16, error=JournalError)


def test_text_and_json(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {'a': 1} and read_text(path, limit=99) == '{"a": 1}'
    path.write_bytes(b'\xff')
    with pytest.raises(JournalError, match='not UTF-8'):
        read_text(path, limit=99, error=JournalError)


@pytest.mark.parametrize('text', ['', '{', 'NaN', '[Infinity]', '[' * 100_000, '9' * 10_000, '{"a": 1} x'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(JournalError, match='^here: not JSON'):
        parse_json(text, 'here', JournalError)


def test_files_that_are_empty_or_of_the_kernel(tmp_path: Path) -> None:
    """Regular by name, some of the kernel's make their reader wait; libraries are given none of them."""
    (tmp_path / 'file').write_bytes(b'')
    for path in (tmp_path / 'file', Path('/proc/self/status')):
        if path.exists():
            with pytest.raises(JournalError, match='it is empty'):
                check_file(path, limit=10, error=JournalError)
    if os.access('/proc/kmsg', os.R_OK):
        with pytest.raises(JournalError, match='cannot read'):
            read_bytes('/proc/kmsg', limit=10, error=JournalError)
