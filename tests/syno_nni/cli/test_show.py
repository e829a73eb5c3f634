from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syno_nni import model_zoo
from syno_nni.cli.find_operator import classic_names, find_operator
from syno_nni.cli.main import main
from syno_nni.errors import FormulaError
from syno_nni.operator import Operator, classics
from syno_nni.run.directory import open_run

from ...testing.run_factory import SCRATCH, make_run, submit


def test_show_prints_formula_shapes_macs_and_params(capsys: pytest.CaptureFixture[str]) -> None:
    op = classics.conv2d()
    assert main(['show', str(op), '--sizes', 'C_in=16,C_out=32,H=8']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(op)
    facts = dict(line.split(maxsplit=1) for line in lines[2:lines.index('', 2)])
    assert facts == {'id': op.id, 'sizes': 'N=1 C_in=16 C_out=32 H=8 k_1=3', 'input': '1 x 16 x 8 x 8',
                     'output': '1 x 32 x 8 x 8', 'w1': '32 x 16 x 3 x 3', 'MACs': '295k (294912)',
                     'params': '4.61k (4608)'}


def test_show_draws_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['show', 'dilated_conv2d', '--sizes', 'C_in=4,C_out=8,H=16']) == 0
    text = capsys.readouterr().out
    assert 'i: k_1     ○    ●    .    summed' in text
    assert 'one output reads 9 (scattered over 5 x 5) of 16 x 16 positions, 4 of 4 channels at each' in text
    assert '. . █ . ◆ . █ . .' in text


def test_terminals_without_unicode_see_the_drawing_too() -> None:
    command = [sys.executable, '-m', 'syno_nni.cli.main', 'show', 'conv2d']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONIOENCODING': 'ascii', 'LANG': 'C'})
    assert done.returncode == 0 and '\\u' not in done.stdout
    assert '. . # @ # . .' in done.stdout and '`- k_1 -- sum j' in done.stdout


def test_show_as_json_draws_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['show', 'linear', '--json', '--graph', str(tmp_path / 'g.svg')]) == 0
    assert json.loads(capsys.readouterr().out)['graph'] == str(tmp_path / 'g.svg')
    assert (tmp_path / 'g.svg').read_text().startswith('<svg')


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['show', 'linear', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Operator.from_dict(facts['operator']) == classics.linear()
    assert facts['params'] == 64 * 64


@pytest.mark.parametrize('suffix', ['txt', 'dot', 'svg'])
def test_show_draws(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f'graph.{suffix}'
    assert main(['show', 'depthwise_separable', '--graph', str(path)]) == 0
    assert path.stat().st_size > 100 and f'graph    {path}' in capsys.readouterr().out
    assert main(['show', 'conv2d', '--graph', str(tmp_path / 'none' / f'g.{suffix}')]) == 1
    assert 'cannot write the graph' in capsys.readouterr().err
    assert main(['show', 'conv2d', '--graph', 'g.gif']) == 1


def test_everything_that_has_a_name_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*classic_names(), *model_zoo.names()]:
        assert main(['show', name]) == 0, name
    capsys.readouterr()


def test_zoo_ids_and_candidates_of_runs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = model_zoo.names()[0]
    entry = model_zoo.load(name)
    assert find_operator(entry.operator.id) == (entry.operator, f'{name} in the model zoo')
    run = make_run(tmp_path / 'runs' / 'a').path.parent
    op = classics.grouped_conv2d()
    with open_run_again(run) as journal:
        submit(journal, 900, op.id, str(op))
    assert find_operator(op.id[:6], run)[0] == op
    monkeypatch.chdir(tmp_path)
    assert find_operator(op.id) == (op, 'run runs/a')
    (tmp_path / 'runs' / 'b').mkdir()
    (tmp_path / 'runs' / 'b' / 'journal.jsonl').write_text('damaged\n')
    assert find_operator(op.id)[0] == op


def open_run_again(run: Path):
    from syno_nni.run.config import load_config
    return open_run(load_config(SCRATCH), run, resume=True)


@pytest.mark.parametrize(('text', 'message'), [
    ('conv2', "did you mean 'conv2d'"), ('abcdef123456', '--run-dir'), ('out[', 'cannot read formula'),
    ('../../etc/passwd', 'no operator'), ('', 'no operator'),
])
def test_unknown_operators(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormulaError, match=message):
        find_operator(text)


@pytest.mark.parametrize(('argv', 'message'), [
    (['conv2d', '--sizes', 'Q=3'], 'no variable Q'),
    (['grouped_conv2d', '--sizes', 'C_in=3'], 'C_in'),
    (['abcd1234', '--run-dir', 'nowhere'], 'no run directory nowhere'),
])
def test_mistakes_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['show', *argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and message in err
