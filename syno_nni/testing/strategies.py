"""What every strategy must keep to, as checks that need no test runner: for strategies of third parties too.

With pytest, one test per check::

    import pytest
    from syno_nni.testing.strategies import STRATEGY_CHECKS

    @pytest.mark.parametrize('check', STRATEGY_CHECKS, ids=lambda check: check.__name__)
    def test_my_strategy(check):
        check(MyStrategy)

The searches run on a toy space of 27 operators, each takes milliseconds, and they go well past the random samples that a
strategy may begin with. A check that fails raises an AssertionError that says what was wanted and what came instead.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from syno_nni.nas.mutable import OperatorChoice
from syno_nni.run.candidate import KEEP, Candidate, Failure, Miss, Outcome
from syno_nni.run.records import PARSER, Finished, OutcomeKind, Record, Submitted
from syno_nni.strategies import SynoStrategy

from .toy import NO_REPORT, OPERATORS, Evaluate, ToyEngine, ToyJournal, toy_choices, toy_landscape, toy_model_space

MakeStrategy = Callable[..., SynoStrategy]
"""Makes the strategy from keyword arguments of :class:`~syno_nni.strategies.SynoStrategy`; the class itself will do."""

TRIALS = 14
"""How long the searches are: past the warm-up of any strategy."""
_ONE, _TWO = ('operator',), ('a', 'b')


def search(make: MakeStrategy, journal: ToyJournal, evaluate: Evaluate = toy_landscape, *, labels: Sequence[str] = _ONE,
           workers: int = 1, **arguments: Any) -> tuple[SynoStrategy, ToyEngine]:
    """Search the toy space, going on from what ``journal`` holds; return strategy and engine as they are in the end."""
    strategy = make(**{'journal': journal, 'max_trials': TRIALS, 'concurrency': workers, **arguments})
    strategy.restore(journal.state)
    engine = ToyEngine(evaluate, workers)
    try:
        strategy(toy_model_space(*labels), engine)
    finally:
        engine.shutdown()
    return strategy, engine


def check_replay(strategy: SynoStrategy, choices: Mapping[str, OperatorChoice], records: Sequence[Record]) -> None:
    """A search that nothing interrupted would have proposed, knowing what was known each time, what ``records`` hold.

    Args:
        strategy: a new one, of the settings of the search and without a journal.
        choices: of the model space, by label.
        records: of the journal, from its beginning; killed and resumed as often as you like, with any number of trials at
            a time.
    """
    strategy.begin(choices)
    asked: dict[str, Candidate] = {}
    for record in records:
        if isinstance(record, Submitted) and record.id not in asked:
            candidate = strategy.ask()
            assert candidate is not None, f'number {record.number} was proposed; without interruption there is no proposal'
            assert (candidate.number, candidate.id) == (record.number, record.id), (
                f'number {record.number} is {record.formula}; without interruption it is number {candidate.number}, '
                f'{candidate.formula}')
            asked[record.id] = candidate
        elif isinstance(record, Finished):
            strategy.tell(Outcome.of_record(asked[record.id], record))


# --- the checks ------------------------------------------------------------------------------------------------------

def budget_is_used_and_kept(make: MakeStrategy) -> None:
    """The baseline comes first; then as many candidates as the budget says, and never more at a time than allowed."""
    for workers in (1, 3):
        journal = ToyJournal()
        strategy, engine = search(make, journal, workers=workers, max_trials=7)
        assert engine.order[0] == {'operator': KEEP}, f'the baseline comes first, got {engine.order[0]}'
        assert len(engine.order) == 8, f'wanted the baseline and 7 trials, got {len(engine.order)} in all'
        assert engine.most_running <= workers, f'{engine.most_running} trials at a time, allowed are {workers}'
        assert strategy.ended == 'budget', f'the budget is used up, but the search ended by {strategy.ended!r}'


def proposals_are_of_the_space(make: MakeStrategy) -> None:
    """Every sample has a valid value for every choice, and no other keys."""
    for labels in (_ONE, _TWO):
        choices, journal = toy_choices(*labels), ToyJournal()
        search(make, journal, labels=labels)
        for trial in journal.state.operators:
            assert set(trial.sample) == set(labels), f'wanted values for {labels}, got {dict(trial.sample)}'
            for choice in choices.values():
                error = choice.check_contains(dict(trial.sample))
                assert error is None, f'number {trial.number}: {error}'


def nothing_is_proposed_twice(make: MakeStrategy) -> None:
    """Not even when the space is nearly used up; then the search ends."""
    journal = ToyJournal()
    strategy, engine = search(make, journal, max_trials=10 * len(OPERATORS))
    ids = [trial.id for trial in journal.state.operators]
    assert len(set(ids)) == len(ids) == len(engine.order) - 1, f'{len(engine.order) - 1} trials of {len(set(ids))} operators'
    assert strategy.ended == 'exhausted', f'nothing new is left, but the search ended by {strategy.ended!r}'


def the_seed_decides(make: MakeStrategy) -> None:
    """Two searches of one seed are equal."""
    for labels in (_ONE, _TWO):
        for seed in (0, 7):
            first, second = ToyJournal(), ToyJournal()
            for journal in (first, second):
                search(make, journal, labels=labels, seed=seed)
            _must_equal(second, first, f'the same search again, with seed {seed}')


def proposing_changes_nothing(make: MakeStrategy) -> None:
    """``propose`` may be called as often as one likes; with equal random streams it says the same."""
    strategy = make(max_trials=TRIALS)
    strategy.begin(toy_choices(*_TWO))
    for number in range(TRIALS):
        proposals = [strategy.propose(np.random.default_rng((1, number))) for _ in range(2)]
        if number:  # the first are about the baseline
            assert proposals[0] == proposals[1], f'after {number} outcomes: first {proposals[0]}, then {proposals[1]}'
        candidate = strategy.ask()
        assert candidate is not None, f'no proposal after {number} outcomes'
        strategy.tell(Outcome.judge(candidate, toy_landscape(candidate.sample)))


def notes_are_json(make: MakeStrategy) -> None:
    """What a strategy notes of a proposal comes back from a journal as it was."""
    for labels in (_ONE, _TWO):
        journal = ToyJournal()
        search(make, journal, labels=labels)
        for trial in journal.state.operators:
            note = json.loads(json.dumps(dict(trial.candidate.note), allow_nan=False))
            assert note == trial.candidate.note, f'the note of number {trial.number} becomes {note} in a journal'


def every_outcome_is_survived(make: MakeStrategy) -> None:
    """Evaluations that raise, report nothing or nonsense, are rejected or time out, in any order and from the first on."""
    wanted = [kind for kind in OutcomeKind if kind != OutcomeKind.LOST]
    for first in range(len(wanted)):
        journal, evaluations = ToyJournal(), iter(range(first - 1, 10 * TRIALS))
        search(make, journal, partial(_end_in_turn, wanted, evaluations))
        kinds = [trial.outcome.kind if trial.outcome else None for trial in journal.state.operators]
        expected = [wanted[(first + n) % len(wanted)] for n in range(TRIALS)]
        assert kinds == expected, f'wanted the outcomes {expected}, got {kinds}'


def no_success_is_survived(make: MakeStrategy) -> None:
    """A search whose every candidate is rejected, or fails, goes on to the end of its budget."""
    for kind in (OutcomeKind.REJECTED, OutcomeKind.DIED):
        for labels in (_ONE, _TWO):
            journal = ToyJournal()
            search(make, journal, partial(_end_as, kind), labels=labels)
            assert len(journal.state.failed) == TRIALS, f'{len(journal.state.failed)} of {TRIALS} were evaluated'


def resuming_gives_the_same_sequence(make: MakeStrategy) -> None:
    """Killed after any record, the search goes on as if nothing had happened: nothing that has an outcome is evaluated
    again, and later proposals are the same. Some candidates are rejected or fail, as they do in life."""
    for labels in (_ONE, _TWO):
        whole = ToyJournal()
        search(make, whole, _mixed, labels=labels)
        for cut in range(2, len(whole.records), len(labels) ** 2):
            journal = ToyJournal(_from_disk(whole.records[:cut]))
            _, engine = search(make, journal, _mixed, labels=labels)
            _must_equal(journal, whole, f'killed after record {cut} of {len(whole.records)} and resumed')
            done = sum(isinstance(record, Finished) for record in whole.records[:cut])
            assert len(engine.order) == TRIALS + 1 - done, 'something was evaluated twice'


def state_dicts_go_on(make: MakeStrategy) -> None:
    """``state_dict`` is JSON, and ``load_state_dict`` goes on from it as a journal would."""
    whole, half = ToyJournal(), ToyJournal()
    search(make, whole, _mixed)
    strategy, _ = search(make, half, _mixed, max_trials=TRIALS // 2)
    other = make(journal=None, max_trials=TRIALS)
    other.load_state_dict(json.loads(json.dumps(strategy.state_dict(), allow_nan=False)))
    engine = ToyEngine(_mixed)
    other(toy_model_space(), engine)
    engine.shutdown()
    assert [o.candidate.id for o in other.history] == [trial.id for trial in whole.state.finished], 'another sequence'


def a_lost_candidate_is_survived(make: MakeStrategy) -> None:
    """A candidate that was in flight when the search was killed three times is given up, and the search goes on; what it
    proposes then is what it would propose after any other failure, and resuming is exact again."""
    whole = ToyJournal()
    search(make, whole, _mixed)
    at = next(n for n, r in enumerate(whole.records) if isinstance(r, Submitted) and r.number == TRIALS // 2)
    killed = whole.records[at]
    assert isinstance(killed, Submitted)
    again = [killed.model_copy(update={'attempt': attempt}) for attempt in (2, 3)]
    journal = ToyJournal(_from_disk([*whole.records[:at + 1], *again]))
    search(make, journal, _mixed)
    trial = journal.state.candidates[killed.id]
    assert trial.error is not None and trial.error.kind == OutcomeKind.LOST, f'wanted it lost, got {trial.status}'
    assert len(journal.state.operators) == TRIALS
    check_replay(make(max_trials=TRIALS), toy_choices(), journal.records)


def several_at_a_time_replay(make: MakeStrategy) -> None:
    """With several trials at a time their order is a matter of luck, but not what is proposed once it is known."""
    for labels in (_ONE, _TWO):
        journal = ToyJournal()
        search(make, journal, _mixed, labels=labels, workers=3)
        for cut in (len(journal.records) // 2, len(journal.records)):
            resumed = ToyJournal(_from_disk(journal.records[:cut]))
            search(make, resumed, _mixed, labels=labels, workers=3)
            check_replay(make(max_trials=TRIALS), toy_choices(*labels), resumed.records)


STRATEGY_CHECKS: tuple[Callable[[MakeStrategy], None], ...] = (
    budget_is_used_and_kept, proposals_are_of_the_space, nothing_is_proposed_twice, the_seed_decides,
    proposing_changes_nothing, notes_are_json, every_outcome_is_survived, no_success_is_survived,
    resuming_gives_the_same_sequence, state_dicts_go_on, a_lost_candidate_is_survived, several_at_a_time_replay)
"""All checks; each takes what makes the strategy."""


def check_strategy(make: MakeStrategy) -> None:
    """Run all of :data:`STRATEGY_CHECKS`; the first that fails raises an AssertionError."""
    for check in STRATEGY_CHECKS:
        check(make)


def _must_equal(journal: ToyJournal, whole: ToyJournal, how: str) -> None:
    found, wanted = ([(t.number, t.id, t.status) for t in j.state.operators] for j in (journal, whole))
    differing = next((n for n, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1]), None)
    assert differing is None, f'{how}: at candidate {differing}, wanted {wanted[differing]}, got {found[differing]}'
    assert len(found) == len(wanted), f'{how}: wanted {len(wanted)} candidates, got {len(found)}'


def _from_disk(records: Sequence[Record]) -> list[Record]:
    return [PARSER.validate_json(record.model_dump_json()) for record in records]


def _mixed(sample: dict[str, str]) -> Any:
    """By sample, so that evaluating one again gives the same: most have a result, some are rejected, a few fail."""
    if set(sample.values()) == {KEEP}:
        return toy_landscape(sample)
    value = round(sum(toy_landscape({'x': formula})['default'] for formula in sample.values()))
    return _end_as((OutcomeKind.SUCCEEDED, OutcomeKind.REJECTED, OutcomeKind.SUCCEEDED, OutcomeKind.SUCCEEDED,
                    OutcomeKind.DIED)[value % 5], sample)


def _end_in_turn(kinds: Sequence[OutcomeKind], numbers: Iterator[int], sample: dict[str, str]) -> Any:
    return _end_as(kinds[next(numbers) % len(kinds)], sample)


def _end_as(kind: OutcomeKind, sample: dict[str, str]) -> Any:
    """What an evaluation of ``sample`` reports that ends so; the baseline always succeeds."""
    metrics = toy_landscape(sample)
    if kind == OutcomeKind.SUCCEEDED or set(sample.values()) == {KEEP}:
        return metrics
    if kind == OutcomeKind.REJECTED:
        speedup = 20.0 / metrics['latency_ms']
        return Failure.rejection(Miss(f'speedup {speedup:.3f}, wanted are 100', math.log2(100 / speedup)), 'latency',
                                 {'latency_ms': metrics['latency_ms'], 'speedup': speedup}).report()
    if kind == OutcomeKind.INVALID_METRIC:
        return NO_REPORT
    if kind == OutcomeKind.DIED:
        raise RuntimeError('so the check wants it')
    return Failure.of(kind, 'so the check wants it').report()
