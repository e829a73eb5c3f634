"""What a run knows: the journal's records, replayed in order into one state."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from syno_nni.errors import JournalError

from .records import Abandoned, Ended, Error, Finished, Header, Intermediate, Record, Resumed, Submitted, Tested

BASELINE = 'baseline'
"""The id of the candidate that keeps every layer: the original model."""


@dataclass
class Candidate:
    """One proposed operator (or one per group of slots) and what became of it. Times are Unix seconds."""
    id: str
    number: int
    formula: str
    sample: dict[str, str]
    submitted_at: float
    status: Literal['running', 'waiting', 'succeeded', 'failed'] = 'running'
    attempts: int = 1
    duration_s: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    test_metrics: dict[str, Any] = field(default_factory=dict)
    error: Error | None = None
    note: dict[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    """Validation accuracy after each epoch of the last attempt."""

    @property
    def started(self) -> bool:
        """Whether a trial was started for it; not if it was rejected for its size."""
        return not (self.error is not None and self.error.kind == 'rejected' and self.metrics.get('stage') == 'size')


@dataclass
class RunState:
    """The state of a run. :meth:`apply` is the only thing that changes it."""
    header: Header | None = None
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    """By id, the baseline included, in the order of their first submission."""
    finish_order: list[str] = field(default_factory=list)
    """The ids of all that have an outcome, in the order of the journal: clocks may stand still or step back."""
    ended: Ended | None = None
    started_at: float | None = None
    updated_at: float | None = None
    sessions: int = 0
    """How many processes have worked on the run."""

    @classmethod
    def replay(cls, records: Iterable[Record]) -> RunState:
        """The state after ``records``. Raises JournalError where they contradict each other."""
        state = cls()
        for record in records:
            state.apply(record)
        return state

    def apply(self, record: Record) -> None:
        """Take one record in; raise JournalError and change nothing when it contradicts the state."""
        self.check(record)
        self.updated_at = record.time
        match record:
            case Header():
                self.header, self.started_at = record, record.time
                self._new_session(record)
            case Resumed():
                self._new_session(record)
            case Ended():
                self.ended = record
            case Submitted():
                self._submit(record)
            case Intermediate():
                if 'accuracy' in record.metrics:
                    self.candidates[record.id].curve.append(record.metrics['accuracy'])
            case Abandoned():
                candidate = self.candidates[record.id]
                candidate.status, candidate.attempts = 'waiting', candidate.attempts - 1
            case Finished():
                candidate = self.candidates[record.id]
                self.finish_order.append(record.id)
                candidate.status = record.state
                candidate.metrics, candidate.error = record.metrics, record.error
                candidate.duration_s = record.duration_s
            case Tested():
                self.candidates[record.id].test_metrics = record.metrics

    def _new_session(self, record: Header | Resumed) -> None:
        self.config, self.environment, self.ended = record.config, record.environment, None
        self.sessions += 1

    def _submit(self, record: Submitted) -> None:
        candidate = self.candidates.get(record.id)
        if candidate is None:
            self.candidates[record.id] = Candidate(record.id, record.number, record.formula, record.sample, record.time,
                                                   note=record.note)
        else:
            candidate.status, candidate.submitted_at, candidate.curve = 'running', record.time, []
            candidate.attempts += 1

    def check(self, record: Record) -> None:
        """Raise JournalError when ``record`` cannot follow the records so far."""
        if isinstance(record, Header) != (self.header is None):
            raise JournalError('a run begins with one header' if self.header else 'the header record is missing')
        if not isinstance(record, Submitted | Intermediate | Abandoned | Finished | Tested):
            return
        candidate = self.candidates.get(record.id)
        if candidate is None and not isinstance(record, Submitted):
            raise JournalError(f'candidate {record.id} is {record.event} but was never submitted')
        done = candidate is not None and candidate.status in ('succeeded', 'failed')
        if done and isinstance(record, Submitted | Abandoned | Finished):
            raise JournalError(f'candidate {record.id} is {record.event} after it finished')

    @property
    def baseline(self) -> Candidate | None:
        """The original model, once it was evaluated."""
        candidate = self.candidates.get(BASELINE)
        return candidate if candidate is not None and candidate.status == 'succeeded' else None

    @property
    def operators(self) -> list[Candidate]:
        """All candidates but the baseline, by number."""
        return sorted((c for c in self.candidates.values() if c.id != BASELINE), key=lambda c: c.number)

    @property
    def succeeded(self) -> list[Candidate]:
        """Operators with a result, in the order in which the results came."""
        return [c for c in self.finished if c.status == 'succeeded' and c.id != BASELINE]

    @property
    def finished(self) -> list[Candidate]:
        """All candidates with an outcome, the baseline included, in the order in which the outcomes came."""
        return [self.candidates[name] for name in self.finish_order]

    @property
    def failed(self) -> list[Candidate]:
        """Operators whose evaluation failed, by number."""
        return [c for c in self.operators if c.status == 'failed']

    @property
    def in_flight(self) -> list[Candidate]:
        """Candidates without an outcome (perhaps the baseline too): what a resumed run evaluates first."""
        return [c for c in self.candidates.values() if c.status in ('running', 'waiting')]

    @property
    def measured(self) -> list[Candidate]:
        """Operators with both an accuracy and a latency."""
        return [c for c in self.succeeded if {'latency_ms', 'accuracy'} <= c.metrics.keys()]

    def latency_ms(self, candidate: Candidate) -> float:
        """The latency to compare candidates by: the original model's, divided by the candidate's speedup.

        Candidates are timed at different times, while the machine may be busy or slow; each takes turns with the
        original model, so the speedups compare. Without them, this is the latency as it was measured.
        """
        speedup = candidate.metrics.get('speedup')
        if self.baseline is None or not speedup or 'latency_ms' not in self.baseline.metrics:
            return candidate.metrics['latency_ms']
        return self.baseline.metrics['latency_ms'] / speedup

    @property
    def front(self) -> list[Candidate]:
        """Operators that no other one beats in both ``accuracy`` and :meth:`latency_ms`, fastest first."""
        best: list[Candidate] = []
        for candidate in sorted(self.measured, key=lambda c: (self.latency_ms(c), -c.metrics['accuracy'])):
            if not best or candidate.metrics['accuracy'] > best[-1].metrics['accuracy']:
                best.append(candidate)
        return best

    @property
    def best(self) -> Candidate | None:
        """The operator with the greatest ``default`` metric, the earliest of equals."""
        return max(self.succeeded, key=lambda c: c.metrics.get('default', float('-inf')), default=None)
