from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from syno_nni import __version__
from syno_nni.cli import main as module
from syno_nni.cli.main import COMMANDS, build_parser, main
from syno_nni.errors import SpaceError


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        name = command.__name__.rpartition('.')[2]
        with pytest.raises(SystemExit) as caught:
            main([name, '--help'])
        assert caught.value.code == 0
        said = capsys.readouterr().out
        assert f'syno-nni {name}' in said and '%%' not in said and '%(' not in said


def test_every_command_that_prints_data_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    names = {command.__name__.rpartition('.')[2] for command in COMMANDS} - {'nnictl'}
    for name in names:
        with pytest.raises(SystemExit):
            main([name, '--help'])
        said = capsys.readouterr().out
        assert '--json' in said, name
        assert ('--quiet' in said) == (name in ('search', 'resume', 'zoo')), name


@pytest.mark.parametrize('argv', [[], ['dance'], ['search', '--max-trials', '0'], ['search', '--engine', 'cloud'],
                                  ['show'], ['show', 'conv2d', '--sizes', 'C_in'], ['resume']])
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert 'usage:' in capsys.readouterr().err


def test_errors_are_one_line_and_debug_shows_more(capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        raise SpaceError('too\nsmall')

    parser = build_parser()
    monkeypatch.setattr(module, 'build_parser', lambda: parser)
    parse = parser.parse_args
    monkeypatch.setattr(parser, 'parse_args', lambda argv: _with(parse(argv), run=run))
    assert main(['zoo']) == 1
    assert capsys.readouterr().err == 'error: too small\n'
    assert main(['zoo', '--debug']) == 1
    said = capsys.readouterr().err
    assert said.startswith('Traceback') and 'SpaceError: too' in said


def test_tracebacks_and_warnings_of_libraries_cannot_speak_to_the_terminal(
        capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        warnings.warn('a\x1b[2J\nb', stacklevel=1)
        raise SpaceError('c\x1b[2J\x07')

    parser = build_parser()
    monkeypatch.setattr(module, 'build_parser', lambda: parser)
    parse = parser.parse_args
    monkeypatch.setattr(parser, 'parse_args', lambda argv: _with(parse(argv), run=run))
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    assert main(['zoo', '--debug']) == 1
    said = capsys.readouterr().err
    assert '\x1b' not in said and '\\x1b[2J' in said
    assert [record.getMessage() for record in caplog.records if record.name == 'py.warnings'] == ['UserWarning: a\\x1b[2J b']
    sys.excepthook(ValueError, ValueError('d\x1b[2J'), None)
    assert '\x1b' not in capsys.readouterr().err


def test_interrupts_exit_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        raise KeyboardInterrupt

    parser = build_parser()
    monkeypatch.setattr(module, 'build_parser', lambda: parser)
    parse = parser.parse_args
    monkeypatch.setattr(parser, 'parse_args', lambda argv: _with(parse(argv), run=run))
    assert main(['zoo']) == 130
    assert capsys.readouterr().err == 'interrupted\n'


def _with(namespace: object, **values: object) -> object:
    for name, value in values.items():
        setattr(namespace, name, value)
    return namespace


def test_console_script_survives_a_closed_pipe(tmp_path: Path) -> None:
    command = f'{sys.executable} -m syno_nni.cli.main zoo --json | head -c 1'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.stdout, done.stderr) == ('[', '')


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['--version'])
    assert capsys.readouterr().out == f'syno-nni {__version__}\n'


@pytest.mark.parametrize('sort', ['pipe', 'utf-16', 'huge'])
def test_settings_of_matplotlib_that_are_none(sort: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    """matplotlib reads a file of this name from where one is, and waits for a pipe."""
    monkeypatch.chdir(tmp_path)
    if sort == 'pipe':
        os.mkfifo('matplotlibrc')
    else:
        Path('matplotlibrc').write_bytes('font.size: 9'.encode('utf-16') if sort == 'utf-16' else b'#' * (1 << 21))
    assert main(['report', 'run']) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: ') and 'matplotlib' in said and said.count('\n') == 1
