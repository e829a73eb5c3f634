"""A thousand hostile files and words, each given to the command that reads it.

Whatever they hold: no code of theirs runs, no connection is made, nothing takes for ever or fills the memory, a fault is one
line of bounded length that no terminal obeys, with status 1 or 2, and what fails leaves nothing behind.

``--hostile-seed`` and ``--hostile-cases`` make other corpora; ``make soak`` runs a larger one.
"""
from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syno_nni.text import LONGEST_ERROR

from .case import Case
from .generators import GENERATORS, cases_of

_SLACK = 100
_SERVER = Path(__file__).with_name('server.py')


class Server:
    """A process that has imported everything, and runs cases in its children."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / 'canary'
        home = folder / 'home'
        home.mkdir(exist_ok=True)
        environment = {**os.environ, 'HOME': str(home), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'COLUMNS': '200'}
        self._process = subprocess.Popen([sys.executable, str(_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True,
                                         env=environment, cwd=folder)
        self._wait_for('ready')

    def run(self, cases: list[Case], folder: Path) -> list[list[str]]:
        """What is wrong with how each case ended."""
        places = [folder / 'cases' / f'{number:04}' for number in range(len(cases))]
        for case, place in zip(cases, places, strict=True):
            case.write(place)
        before = [_listing(place) for place in places]
        outs = [folder / f'{number:04}.out' for number in range(len(cases))]
        manifest = folder / 'manifest.json'
        manifest.write_text(json.dumps([{'folder': str(place), 'argv': case.argv, 'out': str(out)}
                                        for case, place, out in zip(cases, places, outs, strict=True)]))
        assert self._process.stdin is not None
        self._process.stdin.write(f'{manifest}\n')
        self._process.stdin.flush()
        self._wait_for('done')
        results = [json.loads(line) for line in manifest.with_suffix('.done').read_text().splitlines()]
        assert len(results) == len(cases)
        wrong = [self._judged(case, result, out, _listing(place) if result['status'] else had, had)
                 for case, result, out, place, had in zip(cases, results, outs, places, before, strict=True)]
        if self.canary.exists():
            self.canary.unlink()
            wrong[-1].append('code of one of the cases has run: the canary is there')
        return wrong

    def _judged(self, case: Case, result: dict[str, Any], out: Path, now: list[str], before: list[str]) -> list[str]:
        wrong = []
        if 'killed' in result:
            return [f'killed by {result["killed"]}: too long, too much memory, or a crash']
        said = [path.read_text(errors='backslashreplace') for path in (out, out.with_name(f'{out.name}.err'))]
        if result['escaped']:
            wrong.append(f'escaped from main: {result["escaped"]}')
        wrong += [f'caused {event}' for event in result['events']]
        if result['status'] not in (0, 1, 2) and not result['escaped']:
            wrong.append(f'status {result["status"]}')
        if result['status'] == 0 and case.refused:
            wrong.append(f'was accepted: {said[0][-500:]!r}')
        if odd := {c for text in said for c in text if c not in '\n\t' and not c.isprintable()}:
            wrong.append(f'reaches the terminal: {odd!r}')
        if case.debug:
            return wrong
        if any('Traceback' in text for text in said):
            wrong.append('shows a traceback')
        lines = said[1].splitlines()
        errors = [line for line in lines if not line.startswith('WARNING: ')]
        if result['status'] == 1 and (len(errors) != 1 or not errors[0].startswith('error: ') or len(lines) > 3):
            wrong.append(f'{len(lines)} lines instead of one error: {said[1][:1500]!r}')
        if result['status'] == 2 and 'error: ' not in (lines or [''])[-1]:
            wrong.append(f'no error: {said[1][-1500:]!r}')
        if any(len(line) > LONGEST_ERROR + _SLACK for line in lines):
            wrong.append(f'a line of {max(map(len, lines))} characters')
        if now != before:
            wrong.append(f'failed, and left {sorted(set(now) ^ set(before))[:5]}')
        return wrong

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(word), f'the server of hostile cases ended with {self._process.wait()}'

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _listing(folder: Path) -> list[str]:
    """Names and sizes of all there is in a folder."""
    found = []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(root, name))
            found.append(f'{root}/{name} {status.st_mode:o} {status.st_size if name in files else ""}')
    return sorted(found)


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not os.path.isdir('/proc/self'):
        pytest.skip('wants Linux')
    server = Server(tmp_path_factory.mktemp('server'))
    yield server
    server.close()


def _must_end_well(kind: str, seed: int, total: int, server: Server, folder: Path) -> None:
    cases = cases_of(kind, seed, total, server.canary)
    bad = [(number, case, wrong) for number, (case, wrong) in enumerate(zip(cases, server.run(cases, folder),
                                                                            strict=True)) if wrong]
    shown = '\n'.join(f'{folder}/cases/{number:04}: syno-nni {shlex.join(case.argv)!r:.300}\n    '
                      + '\n    '.join(fault[:3000] for fault in wrong) for number, case, wrong in bad[:40])
    if bad:
        pytest.fail(f'{len(bad)} of {len(cases)} cases end badly (seed {seed}):\n{shown}', pytrace=False)


def test_there_are_many(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cases = [case for kind in GENERATORS for case in cases_of(kind, 0, request.config.getoption('hostile_cases'),
                                                              tmp_path / 'c')]
    assert len(cases) >= request.config.getoption('hostile_cases')
    assert len({(case.argv, str(case.files)) for case in cases}) > 0.9 * len(cases)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize('kind', GENERATORS)
def test_nothing_hostile_runs_hangs_or_shouts(kind: str, server: Server, request: pytest.FixtureRequest,
                                              tmp_path: Path) -> None:
    _must_end_well(kind, request.config.getoption('hostile_seed'), request.config.getoption('hostile_cases'), server, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('kind', GENERATORS)
def test_another_corpus_ten_times_as_large(kind: str, server: Server, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    seed, total = request.config.getoption('hostile_seed'), request.config.getoption('hostile_cases')
    _must_end_well(kind, seed + 1, 10 * total, server, tmp_path)
