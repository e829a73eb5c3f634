"""Makes run directories with plausible records, without a search."""
from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.directory import open_run
from syno_nni.run.journal import Journal, Listener
from syno_nni.run.records import PARSER, Ended, Tested

FORMULA = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c, i]'

SCRATCH = Path(__file__).parents[2] / 'examples' / 'scratch.yml'


def write(journal: Journal, fields: dict[str, Any]) -> None:
    """Append a record given as plain data."""
    journal.append(PARSER.validate_python(fields))


def submit(journal: Journal, number: int, candidate: str, formula: str = FORMULA) -> None:
    write(journal, {'event': 'submitted', 'number': number, 'id': candidate, 'formula': formula,
                   'sample': {'operator': formula}})


def succeed(journal: Journal, number: int, candidate: str, accuracy: float, speedup: float,
            latency_ms: float | None = None, **more: float) -> None:
    metrics = {'default': accuracy + 0.05 * speedup, 'accuracy': accuracy, 'latency_ms': latency_ms or 4 / speedup,
               'baseline_latency_ms': 4.0, 'speedup': speedup, 'macs': int(8e7 / speedup), 'params': 12345, **more}
    write(journal, {'event': 'finished', 'number': number, 'id': candidate, 'state': 'succeeded', 'metrics': metrics,
                   'duration_s': 2.5})


def fail(journal: Journal, number: int, candidate: str, kind: str = 'timeout', message: str = 'too slow') -> None:
    write(journal, {'event': 'finished', 'number': number, 'id': candidate, 'state': 'failed',
                   'error': {'kind': kind, 'message': message}})


def make_run(run_dir: Path, operators: int = 6, *, config: SearchConfig | None = None, ended: bool = True,
             listener: Listener | None = None) -> Journal:
    """A closed journal with a baseline and ``operators`` candidates, the last of which failed."""
    chance = random.Random(0)
    with open_run(config or load_config(SCRATCH), run_dir, listener=listener) as journal:
        submit(journal, 0, 'baseline', 'keep')
        succeed(journal, 0, 'baseline', 0.97, 1.0)
        for number in range(1, operators + 1):
            candidate = f'{chance.getrandbits(48):012x}'
            submit(journal, number, candidate)
            if number == operators:
                fail(journal, number, candidate)
            else:
                succeed(journal, number, candidate, 0.8 + 0.15 * chance.random(), 1 + chance.random())
        if ended:
            for candidate in filter(None, (journal.state.baseline, journal.state.best)):
                journal.append(Tested(id=candidate.id, metrics={'accuracy': 0.9}))
            journal.append(Ended(reason='budget'))
    return journal
