"""The disk is full in the middle of a line of the journal, and has room again later."""
from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syno_nni.errors import JournalError
from syno_nni.run.directory import load_run, open_run
from syno_nni.run.journal import Journal

from ..testing.command import Commands, write_file
from ..testing.run_factory import make_run, submit
from ..testing.searching import make_config


def _results(run_dir: Path) -> list[tuple[Any, ...]]:
    return [(c.number, c.id, c.status, c.metrics.get('default')) for c in load_run(run_dir).candidates.values()]


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_search_ends_with_one_line_and_goes_on_when_there_is_room(tmp_path: Path, command: Commands) -> None:
    """No file may grow beyond a limit, which lies within some line of the journal: the kernel writes a part of it."""
    file = write_file(tmp_path / 'search.yml', engine='sequential', maxTrialNumber=6)
    assert command('search', file, '--run-dir', tmp_path / 'whole', seconds=0.01).wait() == 0
    journal = (tmp_path / 'whole' / 'journal.jsonl').read_bytes()
    ends = [i for i, byte in enumerate(journal) if byte == 10]
    # Every run's header is about as long; the limits lie in lines of different kinds.
    for number, at in enumerate((ends[0] + 40, ends[3] + 40, ends[-4] + 40)):
        run = tmp_path / f'run{number}'
        full = command('search', file, '--run-dir', run, seconds=0.01, preexec_fn=lambda at=at: _limit(at))
        assert full.wait() == 1, full.said
        (error,) = full.errors
        assert f'{run}/journal.jsonl: cannot write: ' in error and 'what was recorded before is safe' in error
        assert full.said.count('journal.jsonl: cannot write') == 1, 'said once'
        left = (run / 'journal.jsonl').read_bytes()
        assert len(left) <= at and left.endswith(b'\n') and all(map(json.loads, left.splitlines()))
        again = command('resume', run, seconds=0.01)
        assert again.wait() == 0, again.said
        assert (run / 'journal.jsonl').read_bytes().startswith(left)
        assert _results(run) == _results(tmp_path / 'whole'), 'as if nothing had happened'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('needs the right to mount a file system')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def test_a_real_disk(small_disk: Path) -> None:
    run, ballast = small_disk / 'run', small_disk / 'ballast'
    make_run(run, 3, ended=False)
    with Journal(run) as journal:
        with ballast.open('wb', buffering=0) as file, pytest.raises(OSError, match='No space left'):
            while True:
                file.write(bytes(4096))
        acknowledged = 0
        with pytest.raises(JournalError, match='No space left on device; what was recorded before is safe'):
            while True:
                submit(journal, 1000 + acknowledged, f'{acknowledged:012x}')
                acknowledged += 1
        before = journal.path.read_bytes()
        assert before.endswith(b'\n')
    with pytest.raises(JournalError, match='cannot write'):  # the name of the holder needs a block
        open_run(make_config(), small_disk / 'other')
    ballast.unlink()
    with Journal(run) as journal:
        assert len(journal.state.in_flight) == acknowledged
        submit(journal, 5000, 'f' * 12)
    assert load_run(run).candidates['f' * 12].status == 'running' and journal.path.read_bytes().startswith(before)
