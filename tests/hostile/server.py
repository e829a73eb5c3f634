"""Runs hostile cases in children of one process that has imported everything: ``python server.py CANARY``.

For each line on stdin, the path of a manifest (a JSON list of ``{"folder": ..., "argv": [...], "out": ...}``), it runs the
cases, writes ``MANIFEST.done`` with one JSON line for each, and prints a line. Children have limits of memory, processor time
and wall time, and count what no file may cause: programs started, connections made, unrestricted pickles read.
"""
from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

MEMORY, PROCESSOR_S, WALL_S = 3 << 30, 30, 150
"""What a case may take beyond what the imports took: bytes, seconds, seconds (of a machine that may be busy)."""
BATCH = 40
_FORBIDDEN = ('socket.connect', 'socket.getaddrinfo', 'socket.bind', 'subprocess.Popen', 'os.system', 'os.exec',
              'os.posix_spawn', 'os.fork', 'os.forkpty', 'pty.spawn', 'webbrowser.open', 'pickle.find_class', 'os.kill')
_events: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN:
        _events.append(f'{event} {arguments!r:.200}')


# --- the entry points -------------------------------------------------------------------------------------------------

def _command(argv: list[str]) -> int:
    from syno_nni.cli.main import main
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def _operator_json(path: str) -> None:
    from syno_nni.files import MIB, read_bytes
    from syno_nni.operator import Operator
    print(Operator.from_json(read_bytes(path, limit=MIB)).id)


def _graph_dot(path: str) -> None:
    from syno_nni.operator import load_graph_dot
    print(load_graph_dot(path).id)


def _saved_folder(path: str) -> None:
    from syno_nni.model_zoo import load_folder
    load_folder(path)


READERS = {'operator-json': _operator_json, 'graph-dot': _graph_dot, 'saved-folder': _saved_folder}


def _read(name: str, arguments: list[str]) -> int:
    """A reader of the library that no command reaches; its errors are shown as a command would."""
    from syno_nni.cli.terminal import complain
    from syno_nni.errors import SynoError
    try:
        READERS[name](*arguments)
    except SynoError as error:
        complain(f'error: {error}')
        return 1
    return 0


@contextlib.contextmanager
def _zoo_of(folder: Path) -> Any:
    """While this lasts, the zoo of the installed package is the one in ``folder``, if there is one."""
    from syno_nni.model_zoo import entries, retrofits
    if not folder.is_dir():
        yield
        return
    real = importlib.resources.files
    importlib.resources.files = lambda package=None: folder if 'model_zoo' in str(package) else real(package)  # type: ignore
    for cached in (entries.files, entries._read, retrofits._read):
        cached.cache_clear()
    try:
        yield
    finally:
        importlib.resources.files = real
        for cached in (entries.files, entries._read, retrofits._read):
            cached.cache_clear()


# --- children ---------------------------------------------------------------------------------------------------------

def _size() -> int:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[0]) * os.sysconf('SC_PAGE_SIZE')


def _run(case: dict[str, Any]) -> dict[str, Any]:
    os.chdir(case['folder'])
    out = os.open(case['out'], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    err = os.open(case['out'] + '.err', os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(err, 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    resource.setrlimit(resource.RLIMIT_CPU, (int(before) + PROCESSOR_S, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    _events.clear()
    escaped, status = '', -1
    try:
        with _zoo_of(Path(case['folder']) / 'zoo'):
            first, *rest = case['argv']
            status = _read(first, rest) if first in READERS else _command(case['argv'])
    except BaseException:
        escaped = traceback.format_exc()[-3000:]
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os.close(out)
    os.close(err)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {'status': status, 'escaped': escaped, 'events': list(_events), 'cpu': used.ru_utime + used.ru_stime - before}


def _child(cases: list[dict[str, Any]], results: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_watch)
    for case in cases:
        result = _run(case)
        with open(results, 'a') as file:
            file.write(json.dumps(result) + '\n')
    os._exit(0)


def run_all(cases: list[dict[str, Any]], results: Path) -> None:
    """Run cases in as few children as their ends allow; one that is killed costs its case only."""
    results.write_text('')
    done = 0
    while done < len(cases):
        batch = cases[done:done + BATCH]
        pid = os.fork()
        if pid == 0:
            try:
                _child(batch, results)
            finally:
                os._exit(70)
        _, ended = os.waitpid(pid, 0)
        have = len(results.read_text().splitlines())
        if have < done + len(batch):
            killed = signal.Signals(os.WTERMSIG(ended)).name if os.WIFSIGNALED(ended) else f'exit {os.WEXITSTATUS(ended)}'
            with open(results, 'a') as file:
                file.write(json.dumps({'status': -1, 'escaped': '', 'events': [], 'cpu': 0, 'killed': killed}) + '\n')
            have += 1
        done = have


def _warm() -> None:
    import torch
    torch.set_num_threads(1)
    import matplotlib
    matplotlib.use('Agg')
    from syno_nni.cli.main import main
    quiet = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1)
    os.dup2(quiet, 1)
    for argv in (['zoo', 'list'], ['show', 'conv2d'], ['search', '--dry-run'], ['slots', 'test_resnet']):
        main(argv)
    import syno_nni.run.report
    import syno_nni.search.recipe
    import syno_nni.search.run  # noqa: F401
    from syno_nni.data.config import DataConfig
    from syno_nni.data.datasets import load_data
    load_data(DataConfig())
    sys.stdout.flush()
    os.dup2(kept, 1)


def serve() -> None:
    """Serve until stdin ends."""
    started = time.process_time()
    _warm()
    print(f'ready {time.process_time() - started:.1f}', flush=True)
    for line in sys.stdin:
        manifest = Path(line.strip())
        run_all(json.loads(manifest.read_text()), manifest.with_suffix('.done'))
        print('done', flush=True)


if __name__ == '__main__':
    serve()
