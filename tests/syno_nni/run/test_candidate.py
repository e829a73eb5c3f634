"""Outcomes: their order, their forms on the way through NNI and in the journal."""
from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from syno_nni.run.candidate import Candidate, Failure, Miss, Outcome, Proposal, Worth, unusable
from syno_nni.run.records import PARSER, Error, OutcomeKind

from ...testing import toy

FORMULA = str(next(iter(toy.OPERATORS.values())))


def _candidate(number: int = 1) -> Candidate:
    return Candidate(number, {'operator': FORMULA}, {'paths': {'operator': [0, 1]}})


def _rejected(by: float, **metrics: float) -> Outcome:
    return Outcome.judge(_candidate(), Failure.rejection(Miss('too slow', by), 'latency', metrics).report())


def test_what_missed_by_less_is_worth_more_and_every_result_more_than_that() -> None:
    ordered = [Outcome.failed(_candidate(), 'died', ''), _rejected(3.0), _rejected(0.8), _rejected(0.1),
               Outcome(_candidate(), {'default': -1e9}), Outcome(_candidate(), {'default': 0.5})]
    assert [o.worth for o in ordered] == sorted(o.worth for o in ordered)
    assert len({o.worth for o in ordered}) == len(ordered)
    assert all(math.isfinite(o.worth.value) for o in ordered)


def test_numbers_of_old_journals_order_too() -> None:
    def old(**metrics: Any) -> Worth:
        return Outcome.failed(_candidate(), OutcomeKind.REJECTED, '', metrics=metrics).worth

    assert old(speedup=1.09) > old() == old(speedup='fast') == old(speedup=-1.0) > old(speedup=0.69)
    assert old(missed_by='much') == old(missed_by=10 ** 400) == old(missed_by=True) == old()


@pytest.mark.parametrize('kind', [kind for kind in OutcomeKind if kind != OutcomeKind.SUCCEEDED])
def test_every_outcome_comes_back_from_the_journal(kind: OutcomeKind) -> None:
    outcome = Outcome.failed(_candidate(), kind, 'why', 1.5, {'stage': 'size', 'macs': 3})
    record = PARSER.validate_json(outcome.record().model_dump_json())
    assert Outcome.of_record(outcome.candidate, record) == outcome
    assert record.model_dump(mode='json')['error'] == {'kind': kind.value, 'message': 'why'}
    assert outcome.reward is None and outcome.kind == kind
    assert outcome.started == (kind != OutcomeKind.REJECTED)
    assert (outcome.stage == 'size') == (outcome.missed_by is not None) == (kind == OutcomeKind.REJECTED)


def test_a_candidate_comes_back_from_the_journal_as_it_is_written_there() -> None:
    candidate = _candidate()
    record = PARSER.validate_json(candidate.submitted(1, 0).model_dump_json())
    assert Candidate.of_record(record) == candidate
    assert Candidate.of_record(record.model_copy(update={'formula': 'nonsense', 'id': 'x'})).id == 'x', 'nothing is parsed'
    assert Candidate(2, Proposal({'operator': 'keep'}).sample).is_baseline


def test_an_error_is_no_success() -> None:
    with pytest.raises(ValidationError):
        Error(kind=OutcomeKind.SUCCEEDED)


def test_failures_cross_nni_as_metrics() -> None:
    failure = Failure.rejection(Miss('9 ms, allowed are 5', 0.848), 'latency', {'latency_ms': 9.0})
    report = failure.report()
    assert report == {'default': 0.0, 'latency_ms': 9.0, 'failure': 'rejected', 'stage': 'latency', 'missed_by': 0.848,
                      'message': '9 ms, allowed are 5'}
    assert type(report['failure']) is str, 'what NNI serialises is plain'
    assert Failure.of_report(report) == failure
    assert Failure.of_report({'default': 1.0}) is None and Failure.of_report(0.5) is None
    assert Failure.of(OutcomeKind.TIMEOUT, 'two\nlines').error.message == 'two lines'


@pytest.mark.parametrize('said', ['exception', 'lost', 'succeeded', 'nonsense', '', None, 3, ['rejected'], {}])
def test_a_trial_cannot_claim_what_it_cannot_know(said: Any) -> None:
    outcome = Outcome.judge(_candidate(), {'default': 9.0, 'failure': said})
    assert outcome.kind == OutcomeKind.EXCEPTION and outcome.reward is None


@pytest.mark.parametrize('value', [math.nan, [1, math.inf], {'x': [math.nan]}, object(), {1, 2}, b'x'])
def test_metrics_that_no_journal_can_hold_are_unusable(value: Any) -> None:
    assert unusable({'default': 1.0, 'extra': value})
    assert Outcome.judge(_candidate(), {'default': 1.0, 'extra': value}).kind == OutcomeKind.INVALID_METRIC
    assert Outcome.judge(_candidate(), {'failure': 'rejected', 'extra': value}).metrics == {}
