"""Terminals that show ASCII only, and text that would make a terminal do something.

A command that prints a character which the terminal's encoding lacks must not end in UnicodeEncodeError (Web2Executable#184,
salesforce/ctrl#17); names in files must not move the cursor, clear the screen or set the title.
"""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syno_nni.cli.main import main
from syno_nni.files import parse_json

from ..testing.run_factory import make_run

EVIL = '\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\r'


def _shows_no_escape(text: str) -> bool:
    return all(c == '\n' or c.isprintable() for c in text)


@pytest.mark.parametrize('variables', [{'PYTHONIOENCODING': 'ascii'},
                                       {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
                                       {'PYTHONIOENCODING': 'latin-1'}])
@pytest.mark.parametrize('words', [['zoo', 'list'], ['zoo', 'show', 'resnet18_syno_07754'], ['show', 'conv2d'],
                                   ['show', 'каша→'], ['search', 'ein Büro→.yml']])
def test_terminals_without_the_characters(words: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, '-m', 'syno_nni.cli.main', *words], capture_output=True, cwd=tmp_path, timeout=300,
                          env=environment)
    text = (done.stdout + done.stderr).decode('latin-1')
    assert 'Traceback' not in text and 'UnicodeEncodeError' not in text
    assert done.returncode == (0 if words[-1].isascii() else 1)


def test_all_commands_print_through_the_door() -> None:
    """Nothing but ``terminal`` calls print or writes to a stream."""
    folder = Path(__file__).parents[2] / 'syno_nni' / 'cli'
    found = [f'{path.name}:{node.lineno}' for path in folder.glob('*.py') if path.name != 'terminal.py'
             for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and (
                 getattr(node.func, 'id', '') == 'print' or getattr(node.func, 'attr', '') == 'write')]
    assert not found


@pytest.mark.parametrize('words', [
    ['search', f'{EVIL}.yml'], ['search', '{tmp}/evil.yml', '--dry-run'], ['resume', EVIL], ['report', EVIL], ['show', EVIL],
    ['show', 'conv2d', '--graph', f'{EVIL}/x.txt'], ['slots', EVIL], ['slots', f'local-dir:{EVIL}'], ['zoo', 'show', EVIL],
    ['zoo', 'verify', EVIL], ['retrofit', 'resnet10t', '--operator', EVIL], ['nnictl', 'create', '--config', EVIL],
    ['nnictl', 'create', '--config', '{tmp}/evil.yml'], ['report', '{tmp}/run']])
def test_escapes_are_made_visible(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = json.dumps(EVIL)
    (tmp_path / 'evil.yml').write_text(f'{evil}: {evil}\nmodel: {{name: {evil}, {evil}: 3}}\n')
    run_dir = make_run(tmp_path / 'run').path.parent
    journal = run_dir / 'journal.jsonl'
    lines = [parse_json(line, 'line') for line in journal.read_text().splitlines()]
    for line in lines:
        if line['event'] == 'submitted':
            line['formula'] = EVIL
        if line['event'] in ('header', 'resumed'):
            line['environment']['cpu'] = EVIL
            line['config']['experimentName'] = EVIL
    journal.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    try:
        status = main([word.replace('{tmp}', str(tmp_path)) for word in words])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert _shows_no_escape(captured.out) and _shows_no_escape(captured.err), (captured.out, captured.err)
    assert status == (0 if words[0] == 'report' and words[1] != EVIL else 1)
    if status:
        assert captured.err.count('\n') == 1 and '\\x1b' in captured.err


def test_usage_errors_show_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([EVIL], ['zoo', 'list', 'x', EVIL], ['show', 'conv2d', '--sizes', EVIL], ['search', f'--{EVIL}']):
        with pytest.raises(SystemExit):
            main(words)
        assert _shows_no_escape(capsys.readouterr().err)


@pytest.mark.parametrize('words', [['show'], ['slots'], ['zoo', 'show'], ['search'], ['resume'], ['report'],
                                   ['retrofit', '--operator', 'conv2d'], ['nnictl', 'create', '--config'],
                                   ['retrofit', 'resnet10t', '--operator']])
def test_errors_are_bounded(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, 'x' * 100_000]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ') and captured.err.count('\n') == 1 and len(captured.err) < 2500


def test_a_lock_file_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    (run_dir / 'run.lock').write_text(f'pid 1 on {EVIL}')
    assert main(['resume', str(run_dir), '--max-trials', '7', '--engine', 'sequential']) == 1
    assert _shows_no_escape(capsys.readouterr().err)


def test_an_output_that_is_full_is_one_line() -> None:
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-m', 'syno_nni.cli.main', 'zoo'], stdout=full, stderr=subprocess.PIPE,
                              text=True)
    assert done.returncode == 1 and done.stderr == 'error: No space left on device; make room, then try again\n'
