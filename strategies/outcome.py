"""Candidates and what became of them, as strategies see them."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from syno_nni.nas.mutable import KEEP
from syno_nni.operator import Operator
from syno_nni.run.records import Error, ErrorKind, Finished, Submitted, odd_metric
from syno_nni.run.state import BASELINE
from syno_nni.run.state import Candidate as RunCandidate


@dataclass(frozen=True)
class Proposal:
    """What a strategy wants to try: a value for the label of every choice, a canonical formula or ``keep``. ``note`` is
    JSON-able data of the strategy's own; it comes back with the outcome, from a journal too."""
    sample: Mapping[str, str]
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A proposal to evaluate: ``number`` 0 is the baseline, others count from 1."""
    number: int
    sample: Mapping[str, str]
    note: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """12 hex digits, equal for equal operators: the operator's own id when there is one choice."""
        return sample_id(self.sample)

    @property
    def formula(self) -> str:
        """What a person reads: the formula, or one per choice."""
        values = list(self.sample.values())
        return values[0] if len(values) == 1 else '; '.join(f'{k}: {v}' for k, v in sorted(self.sample.items()))

    @property
    def is_baseline(self) -> bool:
        return self.id == BASELINE

    def submitted(self, attempt: int, seed: int) -> Submitted:
        """The journal record of its submission."""
        return Submitted(number=self.number, id=self.id, formula=self.formula, sample=dict(self.sample),
                         attempt=attempt, rng={'seed': seed, 'stream': self.number}, note=dict(self.note))

    @classmethod
    def of_run(cls, candidate: RunCandidate) -> Candidate:
        """A candidate that a journal holds."""
        return cls(candidate.number, dict(candidate.sample), dict(candidate.note))


def sample_id(sample: Mapping[str, str]) -> str:
    """The id of a sample; see :attr:`Candidate.id`."""
    ids = {label: value if value == KEEP else Operator.parse(value).id for label, value in sample.items()}
    if set(ids.values()) == {KEEP}:
        return BASELINE
    if len(ids) == 1:
        return next(iter(ids.values()))
    text = ';'.join(f'{label}={ids[label]}' for label in sorted(ids))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How the evaluation of a candidate ended: with ``metrics``, or with the ``error`` that ended it before. What was
    known by then, such as the latency of a candidate that was rejected for it, is in ``metrics`` all the same."""
    candidate: Candidate
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: Error | None = None
    duration_s: float | None = None

    @property
    def reward(self) -> float | None:
        """The number to maximise; None after a failure."""
        return None if self.error else float(self.metrics['default'])

    @property
    def started(self) -> bool:
        """Whether a trial was started; not if a filter rejected the candidate before."""
        return not (self.error and self.error.kind == 'rejected' and self.metrics.get('stage') == 'size')

    def record(self) -> Finished:
        """The journal record."""
        return Finished(number=self.candidate.number, id=self.candidate.id,
                        state='failed' if self.error else 'succeeded', metrics=dict(self.metrics), error=self.error,
                        duration_s=None if self.duration_s is None else round(self.duration_s, 3))

    @classmethod
    def failed(cls, candidate: Candidate, kind: ErrorKind, message: str, duration_s: float | None = None,
               metrics: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        """An outcome without a result."""
        return cls(candidate, metrics, Error(kind=kind, message=message), duration_s)

    @classmethod
    def of_run(cls, candidate: RunCandidate) -> Outcome:
        """The outcome that a journal holds."""
        return cls(Candidate.of_run(candidate), dict(candidate.metrics), candidate.error, candidate.duration_s)

    @classmethod
    def judge(cls, candidate: Candidate, report: Any, duration_s: float | None = None) -> Outcome:
        """The outcome of an evaluation that reported ``report``: usable metrics, its own failure, or nonsense."""
        if isinstance(report, Mapping) and 'failure' in report:
            kind = report['failure'] if report['failure'] in ('timeout', 'rejected') else 'exception'
            known = {k: v for k, v in plain(report).items() if k not in ('default', 'failure', 'message')}
            return cls.failed(candidate, kind, str(report.get('message', '')), duration_s,
                              {} if unusable({**known, 'default': 0}) else known)
        metrics = plain(report if isinstance(report, Mapping) else {'default': report})
        problem = unusable(metrics)
        if problem:
            return cls.failed(candidate, 'invalid-metric', problem, duration_s)
        return cls(candidate, metrics, duration_s=duration_s)


def unusable(metrics: Mapping[str, Any]) -> str | None:
    """Why a dict of metrics cannot be used, or None."""
    default = metrics.get('default')
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return f"the final metric needs a number under 'default', got {default!r}"
    return odd_metric(metrics)


def plain(metrics: Mapping[Any, Any]) -> dict[str, Any]:
    """Metrics with numpy and torch scalars as Python numbers."""
    return {str(k): v.item() if hasattr(v, 'item') and getattr(v, 'ndim', 1) == 0 else v for k, v in metrics.items()}
