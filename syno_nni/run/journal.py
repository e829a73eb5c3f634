"""The journal of a run: append-only JSON lines, each on disk before :meth:`Journal.append` returns.

- An append is one ``write`` of one line and an ``fsync``. A crash can only tear the last line.
- A line without its newline is torn: readers drop it with a warning, and the next writer cuts it off. Any other line
  that cannot be read means a damaged file, which is refused with file and line and left as it is.
- One process writes at a time: it holds ``flock`` on ``run.lock``, which names its pid and host. The kernel releases
  the lock of a dead process, so a stale lock needs no clean-up.
- Every append looks whether the file is still the one that was read, and as long: what was removed, moved or changed
  meanwhile is an error, not the beginning of another half of a run.
- Reading changes nothing.
"""
from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from syno_nni.errors import JournalError
from syno_nni.files import JOURNAL_BYTES, exists, read_bytes, sort_of
from syno_nni.text import cell, shorten, visible

from .records import EVENTS, FORMAT, PARSER, Record
from .state import RunState

JOURNAL_FILE = 'journal.jsonl'
LOCK_FILE = 'run.lock'
Listener = Callable[[Record, RunState], None]
"""Called after each append, in the appending thread, one at a time. What it raises is logged."""

_log = logging.getLogger(__name__)


def read_journal(path: Path) -> RunState:
    """The state that the journal file ``path`` records. Takes no lock and writes nothing.

    Raises:
        JournalError: the file cannot be read, a line is damaged or contradicts the ones before, or a newer version
            of syno-nni wrote it.
    """
    return _load(path)[1]


class Journal:
    """The open journal of a run directory, with the state it stands for. Safe to use from several threads.

    Opening takes the lock and replays the file; nothing is written before the first :meth:`append`.

    Raises:
        JournalError: as :func:`read_journal`, or another process holds the lock, or the directory is not writable.
    """

    def __init__(self, directory: Path, listener: Listener | None = None) -> None:
        self.path = directory / JOURNAL_FILE
        self.records: list[Record] = []
        """All records, oldest first."""
        self._listener = listener
        self._mutex = threading.RLock()
        self._file: int | None = None
        self._lock = _RunLock(directory / LOCK_FILE)
        try:
            self.state, self._size, self._torn = RunState(), 0, False
            if exists(self.path):
                self.records, self.state, self._size, self._torn = _load(self.path)
        except BaseException:
            self._lock.release()
            raise

    def append(self, record: Record) -> None:
        """Write ``record`` and take it into the state; on return it is on disk.

        Raises:
            JournalError: the record contradicts the state, the journal is closed, the file was removed, moved or changed
                by somebody else, or the disk refuses (full, read-only, ...). The file then ends with the last complete
                record, as before.
        """
        line = json.dumps(record.model_dump(mode='json'), ensure_ascii=False, allow_nan=False) + '\n'
        with self._mutex:
            self.state.check(record)
            self._write(line.encode())
            self.state.apply(record)
            self.records.append(record)
            self._tell(record)

    def _tell(self, record: Record) -> None:
        if self._listener is None:
            return
        try:
            self._listener(record, self.state)
        except Exception:
            # The record is on disk: a display that fails must not stop the thread that reported a result.
            _log.exception('a listener failed on %s', record.event)

    def _write(self, data: bytes) -> None:
        if self._lock.released:
            raise JournalError(f'{self.path}: the journal is closed')
        try:
            if self._file is None:
                self._file = self._open()
            self._check_file(self._file)
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            self._cut_back()
            raise JournalError(f'{self.path}: cannot write: {error.strerror}; what was recorded before is safe; make '
                               'room or the directory writable, then resume the run') from error
        self._size += len(data)

    def _open(self) -> int:
        new = not self.records
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if new else 0), 0o644)
        except FileNotFoundError:
            raise self._gone() from None
        try:
            if self._torn:
                os.ftruncate(file, self._size)  # of which the reader has warned
                self._torn = False
            if new:
                _sync_directory(self.path.parent)
        except OSError:
            os.close(file)
            raise
        return file

    def _check_file(self, file: int) -> None:
        """Raise JournalError unless ``file`` is what stands at the path, and holds what was written."""
        ours = os.fstat(file)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            raise self._gone() from None
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            raise self._gone()
        if ours.st_size != self._size:
            raise JournalError(f'{self.path}: something else has changed the journal while this search wrote it (want '
                               f'{self._size} bytes, got {ours.st_size}); restore the file from a copy, then resume the run')

    def _gone(self) -> JournalError:
        return JournalError(f'{self.path}: the run directory was removed, moved or replaced while the search was running; '
                            'what was recorded went with it: put it back and resume the run, or start a new one')

    def _cut_back(self) -> None:
        """Remove what a failed write left. Where that fails too, the next reader drops it as a torn line."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._torn = True
        # Reopened by the next append, which looks at the size again.
        os.close(self._file)
        self._file = None

    def close(self) -> None:
        """Close the file and release the lock. May be called twice."""
        with self._mutex:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _load(path: Path) -> tuple[list[Record], RunState, int, bool]:
    """The records, the state they make, the number of bytes of complete lines, and whether a torn line follows."""
    data = read_bytes(path, limit=JOURNAL_BYTES, error=JournalError, what='the journal')
    size = data.rfind(b'\n') + 1
    if size < len(data):
        _log.warning('%s, line %d: dropped an incomplete line of %d bytes (a crash while it was written)', path,
                     data.count(b'\n') + 1, len(data) - size)
    records, state = [], RunState()
    for number, record in _records(data[:size], path):
        try:
            state.apply(record)
        except JournalError as error:
            raise JournalError(f'{path}, line {number}: {error}; restore the file from a copy') from None
        records.append(record)
    return records, state, size, size < len(data)


def _records(data: bytes, path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(data.split(b'\n')[:-1], 1):
        where = f'{path}, line {number}'
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise JournalError(f'{where}: damaged: wants a JSON record, got {_excerpt(line)}; restore the file from '
                               'a copy, or cut it off before this line to lose what follows') from None
        if not isinstance(fields, dict):
            raise JournalError(f'{where}: wants a JSON object, got {_excerpt(line)}')
        if number == 1:
            _check_format(fields, where)
        if fields.get('event') not in EVENTS:
            raise JournalError(f'{where}: unknown event {_excerpt(str(fields.get("event")).encode(errors="replace"))}')
        try:
            yield number, PARSER.validate_json(line)
        except ValidationError as error:
            raise JournalError(f'{where}: {_first_error(error)}') from None


def _check_format(fields: dict[str, object], where: str) -> None:
    version = fields.get('format')
    if fields.get('event') != 'header' or type(version) is not int:
        raise JournalError(f'{where}: not the journal of a syno-nni run: the first line must be its header')
    if version > FORMAT:
        raise JournalError(f'{where}: a newer syno-nni wrote this journal (format {version}; this version reads up '
                           f'to {FORMAT}); upgrade with: pip install -U syno-nni')


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    event, *path = [str(part) for part in first['loc']] or ['?']
    return cell(f'{event} record, {".".join(path) or "event"}: {first["msg"]}', 400)


def _excerpt(line: bytes) -> str:
    text = line[:400].decode(errors='replace')
    return visible(repr(text if len(text) <= 60 else f'{text[:57]}...'))


def _sync_directory(directory: Path) -> None:
    """Make a new file's name durable, not only its content."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class _RunLock:
    """The exclusive ``flock`` of a run directory.

    Not the one of the ``filelock`` package: that truncates the file before it has the lock, so nobody could say any more
    which process holds it, and a holder on another host, whom network file systems may not lock out, would not be seen.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Not through a link: the file is emptied.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
        except (OSError, ValueError) as error:
            raise JournalError(f'{path.parent}: cannot write {path.name} in the run directory: '
                               f'{getattr(error, "strerror", None) or error}') from None
        try:
            if not stat.S_ISREG(mode := os.fstat(self._file).st_mode):
                raise JournalError(f'{path} is {sort_of(mode)}, not a regular file: delete it')
            self._acquire(path)
        except BaseException:
            os.close(self._file)
            raise
        self.released = False

    def _acquire(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f'{path.parent}: in use by {self._holder() or "another process"}; wait for it, stop '
                               'it, or choose another run directory') from None
        except OSError as error:
            raise JournalError(f'{path}: the file system has no locks: {error.strerror}; choose a run directory on '
                               'a local disk') from None
        holder, host = self._holder(), socket.gethostname()
        if holder and not holder.endswith(f' on {host}'):
            # Some network file systems lock within one host only, so a foreign holder may be alive.
            raise JournalError(f'{path.parent}: in use by {holder}; if that process is gone, delete {path}')
        if holder:
            _log.info('%s: took over the lock of %s, which ended without releasing it', path.parent, holder)
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f'pid {os.getpid()} on {host}\n'.encode(), 0)
        except OSError as error:
            raise JournalError(f'{path}: cannot write: {error.strerror}; make room or the directory writable') from None

    def _holder(self) -> str:
        """``pid 123 on host``, or '' after a clean release."""
        return shorten(visible(os.pread(self._file, 300, 0).decode(errors='replace').strip()), 100)

    def release(self) -> None:
        if not self.released:
            self.released = True
            os.ftruncate(self._file, 0)
            os.close(self._file)
