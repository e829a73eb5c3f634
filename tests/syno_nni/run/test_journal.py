from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from syno_nni.errors import JournalError
from syno_nni.run.config import load_config
from syno_nni.run.directory import open_run
from syno_nni.run.journal import JOURNAL_FILE, LOCK_FILE, Journal, read_journal
from syno_nni.run.records import FORMAT, PARSER, Ended, Header, Intermediate, Submitted

from ...testing.run_factory import FORMULA, make_run, submit


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    make_run(tmp_path / 'run', ended=False)
    return tmp_path / 'run'


def test_what_is_appended_is_replayed(run_dir: Path) -> None:
    state = read_journal(run_dir / JOURNAL_FILE)
    assert (len(state.succeeded), len(state.failed), state.in_flight) == (5, 1, [])
    with Journal(run_dir) as journal:
        assert journal.state == state
        assert isinstance(journal.records[0], Header) and isinstance(journal.records[1], Submitted)


def test_every_append_is_on_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def spy(file: int) -> None:
        fsync(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, 'fsync', spy)
    journal = make_run(tmp_path / 'run')
    ends = [len(b''.join(journal.path.read_bytes().splitlines(True)[:n + 1])) for n in range(len(journal.records))]
    assert [size for size in synced if size in ends] == ends


def test_torn_last_line_is_dropped_with_a_warning_and_cut_off_by_the_next_append(
        run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run_dir / JOURNAL_FILE
    whole = path.read_bytes()
    torn = whole + b'{"event": "finished", "number": 3'
    path.write_bytes(torn)
    with caplog.at_level(logging.WARNING):
        with Journal(run_dir) as journal:
            assert f'{path}, line {whole.count(10) + 1}: dropped an incomplete line' in caplog.text
            assert path.read_bytes() == torn, 'opening must not write'
            journal.append(Ended(reason='interrupted'))
    assert path.read_bytes().startswith(whole + b'{"')
    assert read_journal(path).ended is not None


@pytest.mark.parametrize('cut', range(1, 60, 7))
def test_a_file_cut_off_anywhere_keeps_its_complete_lines(run_dir: Path, cut: int) -> None:
    path = run_dir / JOURNAL_FILE
    data = path.read_bytes()[:-cut]
    path.write_bytes(data)
    with Journal(run_dir) as journal:
        assert len(journal.records) == data.count(b'\n')


@pytest.mark.parametrize(('line', 'message'), [
    (b'{"event": "fini\n', 'damaged: wants a JSON record'),
    (b'\x00\x00\x00\n', 'damaged'),
    (b'[' * 100_000 + b'\n', 'damaged'),
    (b'[1]\n', 'wants a JSON object'),
    (b'{"event": "dance"}\n', "unknown event 'dance'"),
    (b'{"event": "finished", "number": -1, "id": "x", "state": "succeeded"}\n', 'finished record, number'),
    (b'{"event": "finished", "number": 1, "id": "nobody", "state": "succeeded"}\n', 'never submitted'),
    (b'{"event": "finished", "number": 0, "id": "baseline", "state": "failed"}\n', 'after it finished'),
    (b'{"event": "submitted", "number": 0, "id": "baseline", "formula": "keep"}\n', 'after it finished'),
    (b'{"event": "header", "config": {}, "digest": ""}\n', 'begins with one header'),
])
def test_a_damaged_line_is_refused_by_file_and_number_and_nothing_is_written(
        run_dir: Path, line: bytes, message: str) -> None:
    path = run_dir / JOURNAL_FILE
    lines = path.read_bytes().splitlines(True)
    lines.insert(4, line)
    path.write_bytes(b''.join(lines))
    before = {p.name: p.read_bytes() for p in run_dir.iterdir()}
    for read in (lambda: read_journal(path), lambda: Journal(run_dir),
                 lambda: open_run(load_config(), run_dir, resume=True)):
        with pytest.raises(JournalError, match=message) as caught:
            read()
        assert f'{path}, line 5: ' in str(caught.value)
        assert len(str(caught.value)) < 600
    assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == before


@pytest.mark.parametrize(('first', 'message'), [
    ({'event': 'header', 'format': FORMAT + 1, 'what': 'ever'}, 'a newer syno-nni wrote this journal'),
    ({'event': 'ended', 'reason': 'budget'}, 'the first line must be its header'),
    ({'event': 'header', 'format': '1'}, 'the first line must be its header'),
])
def test_first_line_must_be_a_header_of_a_known_format(tmp_path: Path, first: dict, message: str) -> None:
    path = tmp_path / JOURNAL_FILE
    path.write_text(json.dumps(first) + '\n')
    with pytest.raises(JournalError, match=message):
        read_journal(path)


def test_fields_of_later_versions_are_ignored(run_dir: Path) -> None:
    path = run_dir / JOURNAL_FILE
    path.write_bytes(path.read_bytes() + b'{"event": "ended", "reason": "time", "colour": "blue"}\n')
    assert read_journal(path).ended.reason == 'time'


def test_journals_of_format_1_stay_readable() -> None:
    state = read_journal(Path(__file__).with_name('journal_format_1.jsonl'))
    assert state.baseline.metrics['accuracy'] == 0.97
    assert [c.status for c in state.operators] == ['succeeded', 'failed', 'waiting', 'running']
    assert state.operators[3].attempts == 2
    assert state.best.test_metrics == {'accuracy': 0.9}
    assert (state.sessions, state.ended) == (2, None)


@pytest.mark.parametrize('fields', [
    {}, {'event': 'dance'}, {'event': 'finished'}, {'event': 'submitted', 'number': 9, 'id': 'x', 'formula': 3},
    {'event': 'finished', 'number': 0, 'id': 'baseline', 'state': 'succeeded', 'metrics': {'default': float('nan')}},
    {'event': 'intermediate', 'number': 0, 'id': 'baseline', 'metrics': {'default': object()}},
])
def test_what_is_no_record_cannot_be_made(fields: dict) -> None:
    with pytest.raises(ValidationError):
        PARSER.validate_python(fields)


def test_numpy_scalars_are_numbers(run_dir: Path) -> None:
    with Journal(run_dir) as journal:
        journal.append(Intermediate(number=0, id='baseline', metrics={'default': np.float32(0.5), 'epoch': np.int64(3)}))
    assert '"metrics": {"default": 0.5, "epoch": 3}' in (run_dir / JOURNAL_FILE).read_text()


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        threads = [threading.Thread(target=lambda n=n: [submit(journal, 100 * n + i, f'{n}-{i}') for i in range(25)])
                   for n in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    state = read_journal(tmp_path / 'run' / JOURNAL_FILE)
    assert len(state.operators) == 150 and state.operators[0].formula == FORMULA


def test_listener_sees_records_and_cannot_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[str] = []

    def listener(record, state) -> None:
        events.append(record.event)
        raise RuntimeError('the display is gone')

    journal = make_run(tmp_path / 'run', listener=listener)
    assert events == [r.event for r in journal.records]
    assert 'a listener failed on header' in caplog.text


# --- a disk that refuses ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('fault', ['full', 'partly', 'fsync', 'read-only'])
def test_a_failing_disk_is_an_error_and_keeps_what_was_there(
        run_dir: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir / JOURNAL_FILE
    before, write, fsync, open_ = path.read_bytes(), os.write, os.fsync, os.open

    def failing_write(file: int, data: bytes) -> int:
        if fault == 'full':
            raise OSError(errno.ENOSPC, 'No space left on device')
        return write(file, data[:20])

    def failing_fsync(file: int) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    def failing_open(name: os.PathLike, flags: int, *mode: int) -> int:
        if Path(name).name == JOURNAL_FILE:
            raise OSError(errno.EROFS, 'Read-only file system')
        return open_(name, flags, *mode)

    with Journal(run_dir) as journal:
        state = len(journal.records)
        with monkeypatch.context() as patch:
            if fault in ('full', 'partly'):
                patch.setattr(os, 'write', failing_write)
            elif fault == 'fsync':
                patch.setattr(os, 'fsync', failing_fsync)
            else:
                patch.setattr(os, 'open', failing_open)
            with pytest.raises(JournalError, match='cannot write: .*what was recorded before is safe'):
                journal.append(Ended(reason='budget'))
        assert path.read_bytes() == before and len(journal.records) == state
        journal.append(Ended(reason='budget'))  # there is room again
    assert os.fsync is fsync and read_journal(path).ended is not None


def test_a_line_that_cannot_be_removed_is_torn_for_the_next_reader(
        run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def refuse(*_: int) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    with Journal(run_dir) as journal:
        submit(journal, 50, 'a')
        with monkeypatch.context() as patch:
            patch.setattr(os, 'write', lambda file, data: write(file, data[:20]))
            patch.setattr(os, 'ftruncate', refuse)
            with pytest.raises(JournalError):
                submit(journal, 51, 'b')
    with Journal(run_dir) as journal:
        assert [c.id for c in journal.state.in_flight] == ['a']


def test_closed_journals_refuse(run_dir: Path) -> None:
    journal = Journal(run_dir)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match='closed'):
        journal.append(Ended(reason='budget'))


# --- one writer ------------------------------------------------------------------------------------------------------

def test_a_second_writer_is_refused_and_told_who_holds_the_run(run_dir: Path) -> None:
    with Journal(run_dir):
        with pytest.raises(JournalError, match=f'in use by pid {os.getpid()} on '):
            Journal(run_dir)
        read_journal(run_dir / JOURNAL_FILE)  # reading needs no lock
    Journal(run_dir).close()


def test_lock_of_another_host_is_respected(run_dir: Path) -> None:
    (run_dir / LOCK_FILE).write_text('pid 7 on elsewhere\n')
    with pytest.raises(JournalError, match='in use by pid 7 on elsewhere; if that process is gone, delete'):
        Journal(run_dir)


WRITER = """
import sys
from pathlib import Path
from run_factory import submit, succeed
from syno_nni.run.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    print('ready', flush=True)
    number = 1000 + len(journal.state.candidates)
    while True:
        submit(journal, number, str(number))
        succeed(journal, number, str(number), 0.5, 1.5)
        print(number, flush=True)
        number += 1
"""


def test_killed_writers_lose_nothing_they_acknowledged_and_leave_no_lock(run_dir: Path) -> None:
    """SIGKILL at arbitrary moments: results never shrink, and the next writer goes on at once."""
    acknowledged: set[str] = set()
    for turn in range(4):
        process = subprocess.Popen([sys.executable, '-c', WRITER, str(run_dir)], stdout=subprocess.PIPE, text=True,
                                   cwd=Path(__file__).parents[2] / 'testing')
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == 'ready\n'
            with pytest.raises(JournalError, match=f'in use by pid {process.pid} on'):
                Journal(run_dir)
            time.sleep(0.02 + 0.03 * turn)
        finally:
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
            process.wait()
        acknowledged |= set(rest.rpartition('\n')[0].split())
        with Journal(run_dir) as journal:
            assert acknowledged <= {c.id for c in journal.state.succeeded}
    assert len(acknowledged) > 4
