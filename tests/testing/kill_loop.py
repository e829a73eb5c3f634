"""Kill a search again and again, and let it end: ``python kill_loop.py RUN_DIR CONFIG KILLS SEED {toy,real}``.

CONFIG is an experiment file as JSON. Every search is a fork of this process, so that nothing is imported twice. Between the
kills, what the journal held must still be there, byte for byte. With ``toy``, evaluations of a sequential search take a
moment and no training. Prints what every search printed, and exits with the status of the last one.
"""
from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import psutil
import searching
import toy

from syno_nni.run.config import SearchConfig
from syno_nni.run.records import Finished, Record, Submitted
from syno_nni.run.state import RunState
from syno_nni.search.run import run_search
from syno_nni.testing.toy import ToySpace

_PATIENCE_S = 300.0


def search(config: SearchConfig, run_dir: Path, news: int) -> int:
    """Fork, search or resume in the child; return its process id. The child writes a byte to ``news`` at every record."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        def listen(record: Record, state: RunState) -> None:
            if isinstance(record, Submitted | Finished):
                os.write(news, b'f' if isinstance(record, Finished) else b's')

        run_search(config, run_dir, resume=(run_dir / 'journal.jsonl').exists(), listener=listen,
                   tell=lambda line: print(line, flush=True))
        status = 0
    except BaseException as error:
        print(f'{type(error).__name__}: {error}', flush=True)
    finally:
        os._exit(status)


def kill(pid: int) -> None:
    """End a search as kill -9 does, and wait until nothing of it is left."""
    tree = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    psutil.wait_procs(tree, timeout=60)


def wait_for_news(pid: int, news: int, wanted: bytes, least: int) -> bool:
    """Wait for a record of one of the ``wanted`` kinds; False if the search ends before."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            heard = os.read(news, 100)
        except BlockingIOError:
            heard = b''
        least -= sum(kind in wanted for kind in heard)
        if least <= 0:
            return True
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.02)
    raise SystemExit('waited in vain for a record')


def main(folder: str, config_json: str, kills: str, seed: str, what: str) -> None:
    if what == 'toy':
        toy.install(ToySpace())
        if json.loads(config_json)['engine'] == 'sequential':
            searching.without_training(0.3)
    config, run_dir, chance = SearchConfig.from_dict(json.loads(config_json)), Path(folder), random.Random(int(seed))
    news, tell = os.pipe()
    os.set_blocking(news, False)
    before = b''
    for _ in range(int(kills)):
        pid = search(config, run_dir, tell)
        # Most searches get on by an outcome, so that the end comes; some are killed before.
        early = chance.random() < 0.3
        if not wait_for_news(pid, news, b'sf' if early else b'f', 1):
            raise SystemExit('the search ended before it could be killed often enough')
        time.sleep(chance.uniform(0, 0.3 if what == 'toy' else 3))
        kill(pid)
        try:
            while os.read(news, 100):
                pass
        except BlockingIOError:
            pass
        journal = (run_dir / 'journal.jsonl').read_bytes()
        if not journal.startswith(before):
            raise SystemExit('the journal has lost something')
        before = journal[:journal.rfind(b'\n') + 1]
        print('killed', flush=True)
    pid = search(config, run_dir, tell)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not (run_dir / 'journal.jsonl').read_bytes().startswith(before):
        raise SystemExit('the journal has lost something')
    raise SystemExit(status)


if __name__ == '__main__':
    main(*sys.argv[1:])
