"""Filling the library of a search by retrofit: a strategy proposes operators, and what each gains is its reward.

Any strategy of this package can be the one that proposes, for what it learns from is cheap: some candidates per second, no
training. Its objective is what the solver of the library says that an operator would gain, see
:meth:`~syno_nni.search_spaces.retrofit.library.Library.gain`.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from syno_nni.nas.mutable import KEEP, OperatorChoice
from syno_nni.nas.signals import stop_if_asked
from syno_nni.operator import Operator
from syno_nni.run.candidate import Outcome
from syno_nni.run.records import OutcomeKind
from syno_nni.search_spaces.retrofit.library import Entry, Library
from syno_nni.search_spaces.selection import LABEL

from .base import SynoStrategy

BATCH = 40
"""So many operators are screened before the best of them are scored."""
BEST = 6
"""So many of them are."""
_PATIENCE = 400
# When so many in a row gain nothing, the time is better spent on healing.
_KNOWN, _LAST = 0.4, 1.2
# Parts of the time in which known operators are scored, and until which what is left is.


def explore(library: Library, proposer: SynoStrategy, choice: OperatorChoice, *, seeds: Iterable[Operator] = (),
            operators: int | None, seconds: float | None = None, tick: Callable[[int], None] | None = None) -> None:
    """Screen operators, and score those that gain.

    Args:
        library: is filled. What it knows already counts: a search that goes on screens the rest.
        proposer: says what to look at next. It must be new, and learns everything that is screened here.
        choice: of operators, which it proposes values of.
        seeds: operators to begin with: classic and published ones.
        operators: how many to screen in all; None: as many as there is time for.
        seconds: after which no more are screened.
        tick: called with the number of operators screened so far.
    """
    started = time.monotonic()

    def in_time(part: float = 1.0) -> bool:
        return seconds is None or time.monotonic() - started < part * seconds

    pool = [entry for op in seeds if (entry := library.screen(op, 'known')) is not None and not entry.changes]
    while pool and in_time(_KNOWN):
        pool = _score_best(library, pool)
    proposer.begin({LABEL: choice})
    pool, since = [], 0
    last = library.screened
    while (operators is None or library.screened < operators) and in_time() and library.screened - last < _PATIENCE:
        stop_if_asked()
        candidate = proposer.ask()
        if candidate is None:
            break
        value = candidate.sample[LABEL]
        entry = None if value == KEEP else library.screen(Operator.parse(value), type(proposer).__name__)
        if entry is None:
            proposer.tell(Outcome.failed(candidate, OutcomeKind.REJECTED, 'faster in no slot'))
        else:
            gained = library.gain(entry)
            proposer.tell(Outcome(candidate, {'default': gained}))
            if gained > 0 and not entry.changes:
                pool.append(entry)
                last = library.screened
        since += 1
        if since >= BATCH:
            pool, since = _score_best(library, pool), 0
        if tick is not None:
            tick(library.screened)
    while pool and in_time(_LAST):
        pool = _score_best(library, pool)


def _score_best(library: Library, pool: list[Entry]) -> list[Entry]:
    """Score what gains most, and return what still gains beside it."""
    best = sorted(pool, key=library.gain, reverse=True)[:BEST]
    library.score(best)
    return [entry for entry in pool if not entry.changes and not entry.saved_ms and library.gain(entry) > 0]
