from __future__ import annotations

import json
import platform

import pytest

from syno_nni.cli import env
from syno_nni.cli.main import main
from syno_nni.measure import RUNTIMES


def test_it_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['env']) == 0
    text = capsys.readouterr().out
    for word in ('torch', 'nni', platform.python_version(), 'node', *(f'runtime {name}' for name in RUNTIMES)):
        assert word in text


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['env', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['versions']['nni'].startswith('3.') and facts['node'].startswith('v')
    assert set(facts['runtimes']) == set(RUNTIMES) and facts['runtimes']['eager'] == ''


def test_what_is_missing_or_broken_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise OSError('libtorch.so is gone')

    monkeypatch.setattr('syno_nni.measure.runtimes.missing', broken)
    monkeypatch.setattr(env.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(env.shutil, 'which', lambda name: None)
    text = env.as_text(env.collect())
    assert 'libtorch.so is gone' in text and 'nni_node' in text and 'not found' in text
