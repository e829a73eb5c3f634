"""Candidates and how their evaluation ended: the types that strategies, trials, the journal and reports share.

A failure crosses NNI as part of a trial's final metrics, and the disk as the ``error`` of a journal record. Both forms
are written and read here and in :mod:`.records`; everything between handles an :class:`Outcome`.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from syno_nni.operator import Operator
from syno_nni.text import one_line

from .records import Error, Finished, OutcomeKind, Submitted, odd_metric

KEEP = 'keep'
"""The value that leaves the original layers where they are: the baseline is a member of every space."""
BASELINE = 'baseline'
"""The id of the candidate that keeps every layer: the original model."""
PENALTY = 0.0
"""The objective that NNI is told for a candidate without a result."""

_FEW_CHOICES = 3
_LONGEST_MESSAGE = 500
_REPORTED = (OutcomeKind.TIMEOUT, OutcomeKind.REJECTED, OutcomeKind.INVALID_METRIC)
# What a trial may say of itself; whatever else it claims is an exception.
_UNKNOWN_MISS = 1.0


@dataclass(frozen=True)
class Proposal:
    """What a strategy wants to try: a value for the label of every choice, a canonical formula or ``keep``. ``note`` is
    JSON-able data of the strategy's own; it comes back with the outcome, from a journal too."""
    sample: Mapping[str, str]
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A proposal to evaluate: ``number`` 0 is the baseline, others count from 1.
    """
    number: int
    sample: Mapping[str, str]
    note: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """12 hex digits, equal for equal operators: the operator's own id when there is one choice. Number 0 is
        :data:`BASELINE`, whatever a mixed space chooses for it beside operators.

        Raises:
            SynoError: a value is no formula.
        """
        return sample_id(self.sample) if self.number else BASELINE

    @cached_property
    def formula(self) -> str:
        """What a person reads: the formula, or one per choice."""
        values = list(self.sample.values())
        return values[0] if len(values) == 1 else '; '.join(f'{k}: {v}' for k, v in sorted(self.sample.items()))

    @property
    def summary(self) -> str:
        """The formula; of a model with many choices, how many of its slots each operator fills."""
        if len(self.sample) <= _FEW_CHOICES:
            return self.formula
        filled = Counter(value for value in self.sample.values() if value != KEEP)
        told = '; '.join(f'{count} x {formula}' for formula, count in filled.most_common())
        return f'{filled.total()} of {len(self.sample)} slots' + (f': {told}' if told else '')

    @property
    def is_baseline(self) -> bool:
        return self.id == BASELINE

    def submitted(self, attempt: int, seed: int) -> Submitted:
        """The journal record of its submission."""
        return Submitted(number=self.number, id=self.id, formula=self.formula, sample=dict(self.sample),
                         attempt=attempt, rng={'seed': seed, 'stream': self.number}, note=dict(self.note))

    @classmethod
    def of_record(cls, record: Submitted) -> Candidate:
        """The candidate that a journal holds, with the id and the formula that are written there."""
        candidate = cls(record.number, record.sample, record.note)
        # In the place of what would be computed: a journal is read without parsing all its formulas.
        candidate.__dict__.update(id=record.id, formula=record.formula)
        return candidate


def sample_id(sample: Mapping[str, str]) -> str:
    """The id of a sample; see :attr:`Candidate.id`."""
    ids = {label: value if value == KEEP or is_setting(value) else Operator.parse(value).id
           for label, value in sample.items()}
    if set(ids.values()) == {KEEP}:
        return BASELINE
    if len(ids) == 1:
        return next(iter(ids.values()))
    text = ';'.join(f'{label}={ids[label]}' for label in sorted(ids))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def is_setting(value: str) -> bool:
    """Whether a value of a sample is no operator: JSON, of what a mixed space chooses beside them. No formula is."""
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


class Miss(str):
    """Why a candidate is rejected, in words, with how far it missed the limit ``by``, in doublings (0.5x where 1x is wanted
    is 1, so is 2x the allowed size)."""
    by: float

    def __new__(cls, reason: str, by: float) -> Miss:
        self = super().__new__(cls, reason)
        self.by = by
        return self


class Worth(NamedTuple):
    """What outcomes are ordered by, the better the greater; finite, and of any scale. Every result is worth more than
    whatever was rejected (feasibility first: Deb, "An efficient constraint handling method for genetic algorithms",
    2000), and that more than a failure. ``value`` orders within each ``tier``: the reward, or minus how far a limit was
    missed."""
    tier: int
    value: float


@dataclass(frozen=True)
class Outcome:
    """How the evaluation of a candidate ended: with ``metrics``, or with the ``error`` that ended it before. What was
    known by then, such as the latency of a candidate that was rejected for it, is in ``metrics`` all the same."""
    candidate: Candidate
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: Error | None = None
    duration_s: float | None = None

    @property
    def kind(self) -> OutcomeKind:
        return OutcomeKind.SUCCEEDED if self.error is None else self.error.kind

    @property
    def reward(self) -> float | None:
        """The number to maximise; None without a result."""
        return None if self.error else _number(self.metrics.get('default'))

    @property
    def missed_by(self) -> float | None:
        """How far a rejected candidate missed the limit, in doublings and finite; None if it was not rejected."""
        if self.kind != OutcomeKind.REJECTED:
            return None
        missed = _number(self.metrics.get('missed_by'))
        if missed is not None:
            return missed
        # Of a journal that does not say: 1.09x missed by less than 0.69x, whatever the limit was.
        speedup = _number(self.metrics.get('speedup'))
        return _UNKNOWN_MISS - (math.log2(speedup) if speedup is not None and speedup > 0 else 0.0)

    @property
    def worth(self) -> Worth:
        """What to order outcomes by; see :class:`Worth`."""
        if self.reward is not None:
            return Worth(2, self.reward)
        missed = self.missed_by
        return Worth(0, 0.0) if missed is None else Worth(1, -missed)

    @property
    def stage(self) -> str | None:
        """The stage that rejected the candidate; None if none did. Journals of filters do not name it."""
        return str(self.metrics.get('stage', 'size')) if self.kind == OutcomeKind.REJECTED else None

    @property
    def started(self) -> bool:
        """Whether a trial was started; not if a filter rejected the candidate before."""
        return not (self.kind == OutcomeKind.REJECTED and self.metrics.get('stage') == 'size')

    def record(self) -> Finished:
        """The journal record."""
        return Finished(number=self.candidate.number, id=self.candidate.id,
                        state='failed' if self.error else 'succeeded', metrics=dict(self.metrics), error=self.error,
                        duration_s=None if self.duration_s is None else round(self.duration_s, 3))

    @classmethod
    def of_record(cls, candidate: Candidate, record: Finished) -> Outcome:
        """The outcome that a journal holds."""
        error = (record.error or Error(kind=OutcomeKind.EXCEPTION)) if record.state == 'failed' else None
        return cls(candidate, record.metrics, error, record.duration_s)

    @classmethod
    def failed(cls, candidate: Candidate, kind: OutcomeKind | str, message: str, duration_s: float | None = None,
               metrics: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        """An outcome without a result."""
        return cls(candidate, metrics, Error(kind=OutcomeKind(kind), message=message), duration_s)

    @classmethod
    def judge(cls, candidate: Candidate, report: Any, duration_s: float | None = None) -> Outcome:
        """The outcome of an evaluation that reported ``report``: usable metrics, its own failure, or nonsense."""
        failure = Failure.of_report(report)
        if failure is not None:
            return cls(candidate, failure.metrics, failure.error, duration_s)
        metrics = plain(report if isinstance(report, Mapping) else {'default': report})
        problem = unusable(metrics)
        if problem:
            return cls.failed(candidate, OutcomeKind.INVALID_METRIC, problem, duration_s)
        return cls(candidate, metrics, duration_s=duration_s)


@dataclass(frozen=True)
class Failure:
    """Why an evaluation has no result, and the ``metrics`` that were known by then: what a trial tells the strategy.

    :meth:`report` is its form as final metrics of an NNI trial, :meth:`of_report` reads that.
    """
    error: Error
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: OutcomeKind, message: object, metrics: Mapping[str, Any] = MappingProxyType({})) -> Failure:
        """A failure with its message on one line of bounded length."""
        text = one_line(message)
        return cls(Error(kind=kind, message=text if len(text) <= _LONGEST_MESSAGE else f'{text[:_LONGEST_MESSAGE]}...'),
                   metrics)

    @classmethod
    def rejection(cls, reason: str, stage: str, metrics: Mapping[str, Any] = MappingProxyType({})) -> Failure:
        """Of a candidate that a stage found not worth the next; a :class:`Miss` says by how far."""
        missed = {'missed_by': round(reason.by, 6)} if isinstance(reason, Miss) else {}
        return cls.of(OutcomeKind.REJECTED, reason, {**metrics, 'stage': stage, **missed})

    def report(self) -> dict[str, Any]:
        """As metrics. NNI's listener dies of such without ``default``."""
        return {'default': PENALTY, **self.metrics, 'failure': str(self.error.kind), 'message': self.error.message}

    @classmethod
    def of_report(cls, report: Any) -> Failure | None:
        """The failure that metrics stand for; None if they are a result. Metrics that cannot be kept are left out."""
        if not isinstance(report, Mapping) or 'failure' not in report:
            return None
        said = report['failure']
        kind = OutcomeKind(said) if said in _REPORTED else OutcomeKind.EXCEPTION
        known = {k: v for k, v in plain(report).items() if k not in ('default', 'failure', 'message')}
        return cls(Error(kind=kind, message=str(report.get('message', ''))),
                   {} if unusable({**known, 'default': 0}) else known)


def unusable(metrics: Mapping[str, Any]) -> str | None:
    """Why a dict of metrics cannot be used, or None."""
    default = metrics.get('default')
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return f"the final metric needs a number under 'default', got {default!r}"
    if problem := odd_metric(metrics):
        return problem
    for key, value in metrics.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return f'metric {key} holds what a journal cannot: want JSON data with finite numbers, got {value!r:.60}'
    return None


def plain(metrics: Mapping[Any, Any]) -> dict[str, Any]:
    """Metrics with numpy and torch scalars as Python numbers."""
    return {str(k): v.item() if hasattr(v, 'item') and getattr(v, 'ndim', 1) == 0 else v for k, v in metrics.items()}


def _number(value: Any) -> float | None:
    """A finite number; None for whatever else a file may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
