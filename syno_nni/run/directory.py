"""A run directory: the resolved experiment file, the journal, and what is made from them.

==================  ===================================================================
``config.yml``      the resolved configuration, for people and for starting alike runs
``journal.jsonl``   everything the run knows (:mod:`syno_nni.run.journal`)
``run.lock``        names the process that writes
``report.*``        the tables and plots (:mod:`syno_nni.run.report`), made from the journal
==================  ===================================================================
"""
from __future__ import annotations

import atexit
import contextlib
import os
import re
import time
from pathlib import Path

from syno_nni.atomic import write_whole
from syno_nni.environment import environment
from syno_nni.errors import ConfigError, JournalError
from syno_nni.files import check_path, exists, is_directory, show_path

from .config import SearchConfig, load_config
from .journal import JOURNAL_FILE, LOCK_FILE, Journal, Listener, read_journal
from .records import Header, Resumed
from .state import RunState

CONFIG_FILE = 'config.yml'


def planned_run_directory(config: SearchConfig) -> Path:
    """Where a new run goes: ``runDirectory`` if the configuration names one, else ``runs/<name>-<date>-<time>``."""
    if config.run_directory:
        return Path(config.run_directory)
    name = re.sub(r'\W+', '-', config.experiment_name).strip('-') or 'run'
    return Path('runs') / f'{name}-{time.strftime("%Y%m%d-%H%M%S")}'


def new_run_directory(config: SearchConfig) -> Path:
    """:func:`planned_run_directory`, or one beside it that no other run has.

    Unless the configuration names it, it is made, so that a search that begins in the same second takes another one; if it
    stays empty, it goes when the process ends.

    Raises:
        JournalError: it cannot be made.
    """
    wanted = planned_run_directory(config)
    if config.run_directory:
        return wanted
    for path in (wanted, *(wanted.with_name(f'{wanted.name}-{os.getpid() + i}') for i in range(100))):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise JournalError(f'cannot make the run directory {show_path(path)}: {error.strerror}') from None
        atexit.register(_remove_empty, path.absolute())
        return path
    raise JournalError(f'{wanted.parent} holds a hundred runs of this name and second; name another one with --run-dir')


def _remove_empty(path: Path) -> None:
    for folder in (path, path.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def open_run(config: SearchConfig, run_dir: Path, *, resume: bool = False, listener: Listener | None = None) -> Journal:
    """Begin the run of ``config`` in ``run_dir``, or go on with it, and return its open journal.

    The first record is written: a :class:`Header`, or a :class:`Resumed`. Use as a context manager, or close it.

    Raises:
        JournalError: the directory is in use or holds another run, has nothing to resume, or cannot be written. It is
            left as it was.
    """
    check_run_directory(config, run_dir, resume=resume)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise JournalError(f'cannot make the run directory {show_path(run_dir)}: '
                           f'{getattr(error, "strerror", None) or error}') from None
    journal = Journal(run_dir, listener)
    try:
        if journal.state.header is None:
            _write_config(config, run_dir)
            journal.append(Header(config=config.to_dict(), digest=config.digest(), environment=environment()))
        else:
            if not resume:  # another process began it since _must_be_free looked
                raise JournalError(_holds_this_run(run_dir))
            _must_match(config, journal.state, run_dir)
            journal.append(Resumed(config=config.to_dict(), environment=environment()))
    except BaseException:
        journal.close()
        raise
    return journal


def check_run_directory(config: SearchConfig, run_dir: Path, *, resume: bool = False) -> None:
    """Whether :func:`open_run` can begin or resume there, before any costly preparation. Writes nothing.

    Raises:
        JournalError: it cannot.
    """
    if resume:
        _must_hold_a_run(run_dir)
    else:
        _must_be_free(run_dir, config)


def load_run(run_dir: Path) -> RunState:
    """The state of a run, for reports; it may be going on in another process. Writes nothing.

    Raises:
        JournalError: the directory holds no run, or its journal is damaged.
    """
    _must_hold_a_run(run_dir)
    state = read_journal(run_dir / JOURNAL_FILE) if exists(run_dir / JOURNAL_FILE) else RunState()
    if state.header is None:
        raise JournalError(f'{run_dir}: the run has not recorded anything yet')
    return state


def run_config(run_dir: Path) -> SearchConfig:
    """The configuration to resume ``run_dir`` with: the journal's, which ``config.yml`` must still agree with.

    Budget, engine and port are taken from ``config.yml``, so they may be edited there.

    Raises:
        JournalError: there is no run, or ``config.yml`` has become another configuration.
        ConfigError: ``config.yml`` is malformed.
    """
    _must_hold_a_run(run_dir)
    file, journal = run_dir / CONFIG_FILE, run_dir / JOURNAL_FILE
    state = read_journal(journal) if exists(journal) else RunState()
    if not exists(file):
        return _recorded(state, run_dir)
    config = load_config(file)
    if state.header is not None:
        _must_match(config, state, run_dir)
    return config


def _must_hold_a_run(run_dir: Path) -> None:
    if not is_directory(run_dir):
        near = _run_near(run_dir) if exists(run_dir) else ''
        raise JournalError(f'no run directory {show_path(run_dir)}{near}')
    if not exists(run_dir / JOURNAL_FILE) and not exists(run_dir / CONFIG_FILE):
        raise JournalError(f'{run_dir} holds no run: it has no {JOURNAL_FILE}{_run_near(run_dir)}')


def _run_near(path: Path) -> str:
    """Where the run is that somebody means who names its folder of NNI, a file in it, or the folder of several runs."""
    folders = [path.parent] if path.name in (JOURNAL_FILE, CONFIG_FILE) else [path / 'syno']
    with contextlib.suppress(OSError):
        folders += sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)[:1000]
    found = next((folder for folder in folders if exists(folder / JOURNAL_FILE)), None)
    return '' if found is None else f'; did you mean {show_path(found)}?'


def _must_be_free(run_dir: Path, config: SearchConfig) -> None:
    check_path(run_dir, error=JournalError, what='the run directory')
    if not exists(run_dir):
        return
    if not is_directory(run_dir):
        raise JournalError(f'{show_path(run_dir)} is no directory')
    if exists(run_dir / JOURNAL_FILE):
        state = read_journal(run_dir / JOURNAL_FILE)
        if state.header is not None:
            _must_match(config, state, run_dir)
            raise JournalError(_holds_this_run(run_dir))
    try:
        others = sorted(p.name for p in run_dir.iterdir() if p.name not in (CONFIG_FILE, JOURNAL_FILE, LOCK_FILE))
    except OSError as error:
        raise JournalError(f'{show_path(run_dir)}: cannot look into the run directory: {error.strerror}') from None
    if others:
        raise JournalError(f'{run_dir} is not empty (it has {show_path(others[0])}); choose a new run directory')


def _must_match(config: SearchConfig, state: RunState, run_dir: Path) -> None:
    differences = _recorded(state, run_dir).differences(config)
    if differences:
        raise JournalError(f'{run_dir} holds a run of another configuration ({"; ".join(differences)}); choose '
                           f'another run directory, or undo the changes')


def _recorded(state: RunState, run_dir: Path) -> SearchConfig:
    try:
        return SearchConfig.from_dict(state.config, f'{run_dir / JOURNAL_FILE}, line 1')
    except ConfigError as error:
        raise JournalError(f'{error}; this version of syno-nni cannot go on with it') from None


def _holds_this_run(run_dir: Path) -> str:
    return f'{run_dir} holds this run already; continue it with: syno-nni resume {run_dir}'


def _write_config(config: SearchConfig, run_dir: Path) -> None:
    try:
        write_whole(run_dir / CONFIG_FILE, config.to_yaml())
    except OSError as error:
        raise JournalError(f'{run_dir / CONFIG_FILE}: cannot write: {error.strerror}') from None
