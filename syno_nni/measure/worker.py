"""The process that a runtime of its own runs in: reads a job from standard input, prints timings.

    python -m syno_nni.measure.worker < job.json
"""
from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from . import RUNTIMES
from .turns import take_turns


def main() -> int:
    """Time the models of a job; their outputs go to files beside them."""
    job = json.load(sys.stdin)
    folder = Path(job['folder'])
    x = np.load(folder / 'input.npy')
    if job['runtime'] not in RUNTIMES:
        raise SystemExit(f'unknown runtime {job["runtime"]!r}')
    session = importlib.import_module(f'syno_nni.measure.{job["runtime"]}_session')
    runs = session.load(job['models'], x, job['threads'])
    for n, run in enumerate(runs):
        np.savez(folder / f'{n}.npz', *run())
    print(json.dumps(take_turns(runs, **job['rounds'])))
    return 0


if __name__ == '__main__':
    sys.exit(main())
