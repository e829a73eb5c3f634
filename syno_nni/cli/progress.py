"""What a search shows while it runs: a bar, and a line for every outcome."""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from syno_nni.run.candidate import BASELINE
from syno_nni.run.records import Finished, Header, OutcomeKind, Record, Resumed, Submitted
from syno_nni.run.state import RunState, Trial
from syno_nni.text import one_line, shorten

from .terminal import say

_WIDTH = 118


class Progress:
    """A journal listener that draws a tqdm bar on stderr and writes lines to stdout. Use as a context manager.

    Args:
        total: how many operators are evaluated in all.
        run_dir: of the run.
        lines: whether to write lines; not where stdout is for the result alone.
        bar: whether to draw the bar, where stderr is a terminal.
    """

    def __init__(self, total: int, run_dir: Path, *, lines: bool = True, bar: bool = True) -> None:
        from tqdm import tqdm
        self._run_dir = run_dir
        self._lines = lines
        # To a file or a pipe, lines are enough.
        self._bar = tqdm(total=total, desc='search', unit='operator', leave=False, dynamic_ncols=True,
                         disable=not bar or not sys.stderr.isatty(), smoothing=0.1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.close()

    def __call__(self, record: Record, state: RunState) -> None:
        if isinstance(record, Header | Resumed):
            self.tell(f'run directory: {self._run_dir}')
        elif isinstance(record, Submitted):
            self._show(state)
        elif isinstance(record, Finished):
            self.tell(outcome_line(state.candidates[record.id], state, self._bar.total))
            self._show(state)

    def tell(self, line: str) -> None:
        """Write a line to stdout without disturbing the bar. Nothing happens where nobody reads any more: a search does not
        end because its terminal was closed."""
        if not self._lines:
            return
        with contextlib.suppress(OSError), self._bar.external_write_mode():
            say(line)

    def _show(self, state: RunState) -> None:
        self._bar.n = len(state.succeeded) + len(state.failed)
        if state.best is not None:
            self._bar.set_postfix_str(f'best {state.best.metrics.get("default", 0):.3f}', refresh=False)
        self._bar.refresh()


_Item = TypeVar('_Item')


def each(items: Iterable[_Item], what: str, unit: str, *, quiet: bool = False) -> Iterable[_Item]:
    """The items, with a bar on stderr that says how far their consumer is; none where stderr is no terminal."""
    from tqdm import tqdm
    return tqdm(items, desc=what, unit=unit, leave=False, dynamic_ncols=True, disable=quiet or not sys.stderr.isatty())


def outcome_line(candidate: Trial, state: RunState, total: int) -> str:
    """One line: number, accuracy, latency, speedup and the formula, shortened; or why it failed."""
    what = 'original' if candidate.id == BASELINE else f'{candidate.number:3d}/{total}'
    if candidate.status == 'failed':
        reason = f'{candidate.error.kind}: {one_line(candidate.error.message)}' if candidate.error else ''
        failed = '' if candidate.error and candidate.error.kind == OutcomeKind.REJECTED else 'failed, '
        return shorten(f'{what:>8}  {failed}{reason}', _WIDTH)
    m = candidate.metrics
    numbers = [f'acc {100 * m["accuracy"]:5.1f} %'] if 'accuracy' in m else []
    numbers += [f'{state.latency_ms(candidate):7.2f} ms'] if 'latency_ms' in m else []
    numbers += [f'{m["speedup"]:5.2f}x'] if 'speedup' in m else []
    line = f'{what:>8}  {"  ".join(numbers)}'
    return line if candidate.id == BASELINE else f'{line}  {shorten(one_line(candidate.summary), _WIDTH - len(line) - 2)}'
