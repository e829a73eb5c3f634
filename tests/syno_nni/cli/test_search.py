"""`search`, `resume` and `report` around a stand-in for the search itself; whole searches are in tests/syno_nni/nas."""
from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import syno_nni.search.run as experiment
from syno_nni.cli.main import main
from syno_nni.cli.progress import outcome_line
from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.directory import load_run, open_run

from ...testing.run_factory import FORMULA, SCRATCH, make_run, submit, succeed


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the search; the calls it got."""
    calls: list[dict[str, Any]] = []

    def search(config: SearchConfig, run_dir: Path, *, resume: bool, listener: Any, tell: Any) -> Any:
        calls.append({'config': config, 'run_dir': run_dir, 'resume': resume})
        tell('hello')
        if not resume:
            return make_run(run_dir, config=config, listener=listener).state
        with open_run(config, run_dir, resume=True, listener=listener) as journal:
            submit(journal, 500, 'f' * 12)
            if config.max_trial_number == 666:
                raise KeyboardInterrupt
            succeed(journal, 500, 'f' * 12, 0.99, 3.0)
            return journal.state

    monkeypatch.setattr(experiment, 'run_search', search)
    return calls


def test_search_shows_progress_and_ends_with_the_report(
        searches: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / 'run'
    assert main(['search', '--run-dir', str(run_dir), '--max-trials', '7', '--engine', 'sequential']) == 0
    assert searches[0]['config'] == load_config().replace(max_trial_number=7, engine='sequential')
    out = capsys.readouterr().out
    assert out.startswith(f'hello\nrun directory: {run_dir}\noriginal  acc  97.0 %     4.00 ms   1.00x\n')
    assert '    1/7  acc' in out and 'failed, timeout: too slow' in out
    assert (run_dir / 'report.txt').read_text() in out
    assert (run_dir / 'pareto.png').stat().st_size and (run_dir / 'report.html').stat().st_size
    assert all(len(line) <= 120 for line in out.splitlines() if '/7 ' in line)


@pytest.mark.parametrize('options', [['--json'], ['--json', '--quiet']])
def test_json_is_all_that_stdout_gets(options: list[str], searches: list, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / 'run'
    assert main(['search', '--run-dir', str(run_dir), '--engine', 'sequential', *options]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert main(['report', str(run_dir), '--json']) == 0
    assert json.loads(capsys.readouterr().out) == data and data['run'] == str(run_dir)
    assert said.err == '' and (run_dir / 'report.html').exists()
    assert main(['resume', str(run_dir), '--max-trials', '600', *options]) == 0
    assert json.loads(capsys.readouterr().out)['winner']['id'] == 'f' * 12
    assert main(['search', '--dry-run', *options]) == 0
    assert SearchConfig.from_dict(json.loads(capsys.readouterr().out)) == load_config()


def test_quiet_leaves_the_result(searches: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['search', '--run-dir', str(tmp_path / 'run'), '--engine', 'sequential', '--quiet']) == 0
    said = capsys.readouterr()
    assert said.out.strip() == (tmp_path / 'run' / 'report.txt').read_text().strip() and said.err == ''


def test_search_takes_an_experiment_file(searches: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('my.yml').write_text('experimentName: mine\nmodel: {name: resnet18}\n')
    assert main(['search', 'my.yml']) == 0
    assert searches[0]['config'].model.name == 'resnet18'
    assert searches[0]['run_dir'].match('runs/mine-*')


def test_dry_run_prints_the_resolved_file_and_does_nothing(
        searches: list, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['search', '--dry-run', '--port', '9001']) == 0
    assert SearchConfig.from_dict(yaml.safe_load(capsys.readouterr().out)) == load_config().replace(port=9001)
    assert not searches and not list(tmp_path.iterdir())


def test_resume_goes_on_with_a_larger_budget(searches: list, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    assert main(['resume', str(run_dir), '--max-trials', '600']) == 0
    assert searches == [{'config': load_config(SCRATCH).replace(max_trial_number=600), 'run_dir': run_dir, 'resume': True}]
    assert f'* best objective: {"f" * 12}' in capsys.readouterr().out


def test_interrupted_searches_are_reported_and_exit_with_130(
        searches: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    assert main(['resume', str(run_dir), '--max-trials', '666']) == 130
    captured = capsys.readouterr()
    assert '1 in flight' in captured.out and f'syno-nni resume {run_dir}' in captured.out
    assert 'everything that finished is recorded' in captured.err


def test_report_is_made_anew_from_the_journal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    (run_dir / 'config.yml').unlink()
    before = (run_dir / 'journal.jsonl').read_bytes()
    assert main(['report', str(run_dir)]) == 0
    assert 'Written: report.txt, report.html, pareto.png, convergence.png' in capsys.readouterr().out
    assert (run_dir / 'journal.jsonl').read_bytes() == before


def test_report_as_json_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    before = sorted(p.name for p in run_dir.iterdir())
    assert main(['report', str(run_dir), '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    assert data['run'] == str(run_dir) and data['winner']['mapping']
    assert set(data['winner']['mapping'].values()) == {FORMULA}
    assert sorted(p.name for p in run_dir.iterdir()) == before


def test_report_does_without_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    monkeypatch.setitem(sys.modules, 'syno_nni.search.model_facts', None)  # as where timm is not installed
    assert main(['report', str(run_dir)]) == 0
    assert 'The layers of the model are not listed' in (run_dir / 'report.html').read_text()


def mistakes(tmp_path: Path) -> list[tuple[list[str], str]]:
    make_run(tmp_path / 'run')
    (tmp_path / 'bad.yml').write_text('model: {name: resnet18}\nevaluation: {epoch: 3}\n')
    (tmp_path / 'name.yml').write_text('model: {name: resnet188}\nengine: sequential\n')
    (tmp_path / 'slots.yml').write_text('model: {name: resnet10t}\nengine: sequential\nslots: {kinds: [conv1d]}\n')
    (tmp_path / 'other.yml').write_text('model: {name: resnet18}\nengine: sequential\n')
    return [(['search', 'nowhere.yml'], 'cannot read the experiment file'),
            (['search', 'bad.yml'], "unknown key 'evaluation.epoch'; did you mean 'epochs'?"),
            (['search', 'name.yml', '--run-dir', 'new'], "did you mean 'resnet18"),
            (['search', 'slots.yml', '--run-dir', 'new'], 'conv1d'),
            (['search', str(SCRATCH), '--engine', 'sequential', '--run-dir', 'run'], 'continue it with: syno-nni resume run'),
            (['resume', 'nowhere'], 'no run directory nowhere'), (['report', '.'], 'holds no run')]


@pytest.mark.parametrize('case', range(7))
def test_bad_input_is_one_line_and_nothing_is_written(
        case: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv, message = mistakes(tmp_path)[case]
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file() and p.name != 'run.lock'}
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and message in err
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file() and p.name != 'run.lock'} == before


def test_a_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        assert main(['search', '--port', str(port), '--run-dir', str(tmp_path / 'run')]) == 1
    assert f'error: port {port} cannot be used' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_outcome_lines_fit_and_say_what_happened(tmp_path: Path) -> None:
    make_run(tmp_path / 'run')
    state = load_run(tmp_path / 'run')
    for candidate in state.candidates.values():
        line = outcome_line(candidate, state, 12)
        assert len(line) <= 118 and '\n' not in line
