"""The run directory, or its journal, goes or changes while the search writes it."""
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syno_nni.errors import JournalError
from syno_nni.run.journal import JOURNAL_FILE, Journal
from syno_nni.run.records import Ended

from ..testing.command import Commands, finished, wait_for, write_file
from ..testing.run_factory import make_run, submit


def _remove(run: Path) -> None:
    shutil.rmtree(run)


def _move(run: Path) -> None:
    run.rename(run.with_name('elsewhere'))


def _replace(run: Path) -> None:
    _move(run)
    shutil.copytree(run.with_name('elsewhere'), run)


def _remove_journal(run: Path) -> None:
    (run / JOURNAL_FILE).unlink()


def _edit_in_place(run: Path) -> None:
    with (run / JOURNAL_FILE).open('a') as file:
        file.write('{}\n')


def _cut(run: Path) -> None:
    os.truncate(run / JOURNAL_FILE, 100)


def _folder_in_its_place(run: Path) -> None:
    _move(run)
    run.mkdir()


@pytest.mark.parametrize('begun', [False, True], ids=['just opened', 'writing'])
@pytest.mark.parametrize('change', [_remove, _move, _replace, _remove_journal, _edit_in_place, _cut, _folder_in_its_place])
def test_the_next_write_notices(tmp_path: Path, change: Callable[[Path], None], begun: bool) -> None:
    run = tmp_path / 'run'
    make_run(run, ended=False)
    with Journal(run) as journal:
        if begun:
            submit(journal, 100, 'a' * 12)
        change(run)
        there = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
        for _ in range(2):  # and so does every later one
            if change is _replace and not begun:
                continue  # the copy holds the same: nobody can tell, and nothing is lost
            with pytest.raises(JournalError, match=r'was removed, moved or replaced|has changed the journal'):
                journal.append(Ended(reason='budget'))
        assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == there, 'no half of a run is made'


def test_a_search_ends_at_once_with_one_line(tmp_path: Path, command: Commands) -> None:
    file, run = write_file(tmp_path / 'search.yml', engine='sequential', maxTrialNumber=1000), tmp_path / 'run'
    search = command('search', file, '--run-dir', run)
    wait_for(lambda: finished(run) > 1, why=lambda: search.said)
    shutil.rmtree(run)
    assert search.wait() == 1
    (error,) = search.errors
    assert f'{run}/journal.jsonl: the run directory was removed' in error
    assert not run.exists()


@pytest.mark.nni
@pytest.mark.slow
def test_so_does_one_with_trials_of_nni(tmp_path: Path, command: Commands) -> None:
    from syno_nni.nas.manager import free_port
    file, run = write_file(tmp_path / 'search.yml', engine='local', port=free_port(), maxTrialNumber=1000), tmp_path / 'run'
    search = command('search', file, '--run-dir', run)
    wait_for(lambda: finished(run), why=lambda: search.said)
    shutil.rmtree(run, ignore_errors=True)
    assert search.wait() == 1
    assert any('the run directory was removed' in error for error in search.errors), search.said
    assert not (run / JOURNAL_FILE).exists() and not (run / 'report.html').exists()
