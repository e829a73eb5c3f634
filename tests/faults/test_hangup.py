"""The terminal of a search is closed: SIGHUP, and nobody reads what is printed any more."""
from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from syno_nni.nas.manager import end_process_tree, free_port
from syno_nni.run.directory import load_run

from ..testing import command as program
from ..testing.command import Commands, finished, wait_for, write_file


@contextmanager
def _in_terminal(folder: Path, *words: object, seconds: float = 0.2, nohup: bool = False,
                 ) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``syno-nni`` with a terminal of its own, whose other end is yielded."""
    ours, theirs = pty.openpty()

    def begin() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen([sys.executable, program.__file__, str(seconds), *map(str, words)], stdin=theirs, stdout=theirs,
                               stderr=theirs, cwd=folder, preexec_fn=begin)
    os.close(theirs)

    def read() -> None:
        try:
            while os.read(ours, 1000):
                pass
        except OSError:
            pass

    threading.Thread(target=read, daemon=True).start()
    try:
        yield process, ours
    finally:
        end_process_tree(process.pid)


def _close(terminal: int) -> None:
    """As the window does; whoever is reading from it must be woken first."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, terminal)
    os.close(null)


@pytest.mark.parametrize('engine', ['sequential', pytest.param('local', marks=[pytest.mark.nni, pytest.mark.slow])])
def test_it_ends_in_good_order_and_can_be_resumed(tmp_path: Path, command: Commands, engine: str) -> None:
    port = free_port()
    file = write_file(tmp_path / 'search.yml', engine=engine, port=port, maxTrialNumber=1000)
    run = tmp_path / 'run'
    with _in_terminal(tmp_path, 'search', file, '--run-dir', run) as (process, terminal):
        wait_for(lambda: finished(run) >= 2)
        tree = psutil.Process(process.pid).children(recursive=True)
        assert engine == 'sequential' or any('main.js' in ' '.join(p.cmdline()) for p in tree)
        _close(terminal)
        os.kill(process.pid, signal.SIGHUP)  # the shell sends another one
        assert process.wait(90) != 0
        wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree), 60)
    state = load_run(run)
    assert state.ended is not None and state.ended.reason == 'interrupted'
    assert all(c.status in ('succeeded', 'waiting') for c in state.candidates.values())
    assert (run / 'run.lock').read_text() == '' and (run / 'report.html').exists()
    budget = len(state.operators) + 1
    again = command('resume', run, '--max-trials', budget)
    assert again.wait() == 0, again.said
    assert len(load_run(run).succeeded) == budget


def test_nohup_lets_it_go_on(tmp_path: Path) -> None:
    file, run = write_file(tmp_path / 'search.yml', engine='sequential', maxTrialNumber=5), tmp_path / 'run'
    with _in_terminal(tmp_path, 'search', file, '--run-dir', run, nohup=True) as (process, terminal):
        wait_for(lambda: finished(run))
        _close(terminal)
        os.kill(process.pid, signal.SIGHUP)
        process.wait(120)
    state = load_run(run)
    assert state.ended is not None and state.ended.reason == 'budget' and len(state.succeeded) == 5
    assert state.best is not None and state.best.test_metrics, 'to the very end, though nothing can be printed'
