"""Continuous integration runs the README's test command, and no lack of system packages keeps it from that."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('apt', ['exit 100', 'exit 0', None], ids=['fails', 'works', 'is not there'])
def test_it_calls_make_test(apt: str | None, tmp_path: Path) -> None:
    calls = tmp_path / 'calls'
    programs = {'make': f'echo "make $*" >> {calls}', 'timeout': 'shift; exec "$@"', 'id': 'echo 0'}
    if apt:
        programs['apt-get'] = f'echo "apt-get $*" >> {calls}; {apt}'
    for name, script in programs.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / name).chmod(0o755)
    for name in ('bash', 'dirname', 'env'):
        (tmp_path / name).symlink_to(f'/usr/bin/{name}')
    environment = {'PATH': str(tmp_path), 'CI_VENV': 'here'}
    done = subprocess.run([ROOT / '.ci' / 'run'], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    made = [line for line in lines if line.startswith('make')]
    assert made == ['make lint docs VENV=here', 'make test VENV=here']
    asked = ' '.join(line for line in lines if line.startswith('apt-get'))
    assert all(name in asked for name in ('chromium', 'graphviz')) == bool(apt)
    assert ('note: chromium could not be installed' in done.stderr) == (apt == 'exit 100')


def test_it_can_be_run() -> None:
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)
    assert 'make test' in (ROOT / 'README.md').read_text()
