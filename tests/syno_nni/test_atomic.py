from __future__ import annotations

import os
from pathlib import Path

import pytest

from syno_nni.atomic import write_whole


def test_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'file.txt'
    write_whole(path, 'ä')
    assert path.read_bytes() == 'ä'.encode()
    umask = os.umask(0o022)
    try:
        write_whole(path, b'new')
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b'new', 0o644)
    finally:
        os.umask(umask)

    def full(file: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='space'):
        write_whole(path, 'newer')
    assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path], 'and nothing beside it'


def test_long_names(tmp_path: Path) -> None:
    write_whole(tmp_path / ('n' * 250), 'x')
    with pytest.raises(OSError):
        write_whole(tmp_path / 'no' / 'folder', 'x')
