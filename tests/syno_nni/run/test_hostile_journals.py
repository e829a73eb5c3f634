"""Journals that others wrote, or that were damaged: a record is read and shown sensibly, or refused with its line."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syno_nni.cli.find_operator import find_operator
from syno_nni.cli.main import main
from syno_nni.cli.progress import outcome_line
from syno_nni.errors import JournalError, SynoError
from syno_nni.run.directory import load_run, run_config
from syno_nni.run.plots import convergence_png, pareto_png
from syno_nni.run.report import html_report, report_data, text_report
from syno_nni.search.from_run import choice_of_run
from syno_nni.strategies import make_strategy

from ...testing.run_factory import make_run

REMOVED = object()
VALUES: list[Any] = [None, True, -1, 0, 1e308, 10 ** 400, float('nan'), float('inf'), 'x', 'a\x1b[31m\nb', '', [], [1], {},
                     {'a': {'b': 1}}, '$x^$', [[[]]], 'y' * 5000, REMOVED]


@pytest.fixture(scope='module')
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    journal = make_run(tmp_path_factory.mktemp('runs') / 'run', 3)
    return [json.loads(line) for line in journal.path.read_text().splitlines()]


def _paths(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in data.items():
        yield (*above, key)
        if isinstance(value, dict) and len(above) < 2:
            yield from _paths(value, (*above, key))


def _changed(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(record))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def _look(run_dir: Path) -> None:
    """All that reads a journal; raises only SynoErrors."""
    state = load_run(run_dir)
    shown = [text_report(state, run_dir), html_report(state, b'x', b'x')]
    assert json.loads(json.dumps(report_data(state, run_dir), allow_nan=False))
    lines = [outcome_line(candidate, state, 12) for candidate in state.candidates.values()]
    assert not any('\x1b' in text for text in shown) and all(line.isprintable() for line in lines)
    for use in (lambda: run_config(run_dir), lambda: choice_of_run(run_dir), lambda: find_operator('aaaa', run_dir),
                lambda: make_strategy('mcts').restore(state)):
        try:
            use()
        except SynoError as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize('number', range(9))
def test_any_value_anywhere(number: int, records: list[dict[str, Any]], tmp_path: Path) -> None:
    run_dir = tmp_path / 'run'
    run_dir.mkdir()
    refused = shown = 0
    for path in _paths(records[number]):
        for value in VALUES:
            changed = [*records[:number], _changed(records[number], path, value), *records[number + 1:]]
            (run_dir / 'journal.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in changed))
            try:
                _look(run_dir)
                shown += 1
            except JournalError as error:
                refused += 1
                assert ', line ' in str(error) and str(error).isprintable() and len(str(error)) < 1500
    assert refused and shown


@pytest.mark.parametrize('metrics',
                         [{}, {'default': 0.9}, {'accuracy': 0.9}, {'latency_ms': 3.0}, {'speedup': 2}, {'noisy': [1]},
                                     {'default': -1e15, 'accuracy': 1e15, 'latency_ms': 1e-9, 'speedup': 1e12}])
def test_plots_of_what_was_not_measured(metrics: dict[str, Any], records: list[dict[str, Any]], tmp_path: Path) -> None:
    changed = [{**record, 'metrics': metrics} if record['event'] == 'finished' and record['state'] == 'succeeded' else record
               for record in records]
    changed[0]['config'] = {**changed[0]['config'], 'experimentName': '$\\frac$ \x1b', 'latency': 3, 'strategy': 'x'}
    (tmp_path / 'journal.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in changed))
    state = load_run(tmp_path)
    assert pareto_png(state)[:4] == convergence_png(state)[:4] == b'\x89PNG'
    assert main(['report', str(tmp_path)]) == 0


@pytest.mark.parametrize('name', ['journal.jsonl', 'run.lock', 'config.yml'])
@pytest.mark.parametrize('target', ['fifo', '/dev/zero', 'loop'])
def test_files_of_a_run_that_are_none(name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    (run_dir / name).unlink(missing_ok=True)
    if target == 'fifo':
        os.mkfifo(run_dir / name)
    else:
        (run_dir / name).symlink_to(name if target == 'loop' else target)
    assert main(['resume', str(run_dir), '--max-trials', '7', '--engine', 'sequential']) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and name in err


def test_a_lock_is_not_followed_to_another_file(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / 'run').path.parent
    (tmp_path / 'thesis.tex').write_text('x')
    (run_dir / 'run.lock').unlink()
    (run_dir / 'run.lock').symlink_to(tmp_path / 'thesis.tex')
    assert main(['resume', str(run_dir), '--max-trials', '7', '--engine', 'sequential']) == 1
    assert (tmp_path / 'thesis.tex').read_text() == 'x'
