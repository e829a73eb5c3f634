"""The node that NNI brings is missing, cannot run, or is another one."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nni_node
import pytest

from syno_nni.errors import EngineError
from syno_nni.nas.manager import check_node, free_port
from syno_nni.search.run import run_search

from ..testing.searching import make_config

NODES = {
    'missing': (None, 'cannot be run: No such file or directory'),
    'not executable': ('', 'cannot be run: Permission denied'),
    'no program': (b'\0\1\2', 'cannot be run: Exec format error'),
    'for another machine': ('#!/nowhere/ld.so\n', 'cannot be run: No such file'),
    'without its libraries': ('#!/bin/sh\necho "libc.so.6: version GLIBC_2.28 not found" >&2; exit 127\n',
                              'ends with status 127: libc.so.6: version GLIBC_2.28 not found'),
    'killed': ('#!/bin/sh\nkill -9 $$\n', 'ends with status -9;'),
    'old': ('#!/bin/sh\necho v16.20.2\n', r"needs node 18.15 or newer, and .* is 'v16.20.2'"),
    'a little too old': ('#!/bin/sh\necho v18.9.0\n', "is 'v18.9.0'"),
    'something else': ('#!/bin/sh\necho "node: amateur packet radio"\n', "is 'node: amateur packet radio'"),
}


def test_that_of_nni_will_do() -> None:
    check_node()


@pytest.mark.parametrize('kind', NODES)
def test_what_is_wrong_is_found_before_anything_is_changed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = NODES[kind]
    if content is not None:
        (tmp_path / 'node').write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / 'node').chmod(0o644 if kind == 'not executable' else 0o755)
    monkeypatch.setattr(nni_node, '__path__', [str(tmp_path)])
    with pytest.raises(EngineError, match=message) as raised:
        run_search(make_config(engine='local', port=free_port()), tmp_path / 'run', tell=lambda line: None)
    assert '`engine: sequential`' in str(raised.value) and '\n' not in str(raised.value)
    assert not (tmp_path / 'run').exists()


def test_newer_ones_are_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'node').write_text('#!/bin/sh\necho v22.1.0\n')
    (tmp_path / 'node').chmod(0o755)
    monkeypatch.setattr(nni_node, '__path__', [str(tmp_path)])
    check_node()


def test_nnictl_says_so_too(tmp_path: Path) -> None:
    code = ('import sys, nni_node; nni_node.__path__ = [sys.argv[1]]; sys.argv[1:] = ["create", "--config", "x.yml"]; '
            'from syno_nni.nas.nnictl import main; main()')
    done = subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and 'cannot be run: No such file or directory' in done.stderr
    assert 'Traceback' not in done.stderr
