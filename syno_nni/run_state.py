"""What a run knows: the journal's records, replayed in order into one state."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import JournalError
from .records import (
    Baseline,
    Ended,
    Failed,
    FailureReason,
    Finished,
    Header,
    Proposed,
    Record,
    Resumed,
    Started,
    StrategyState,
    Tested,
)


@dataclass
class Candidate:
    """One proposed operator (or one operator per slot group) and what became of it. Times are Unix seconds."""
    id: str
    formula: str
    label: str
    sample: dict[str, Any]
    number: int
    proposed_at: float
    status: Literal['proposed', 'running', 'finished', 'failed'] = 'proposed'
    attempts: int = 0
    trial: str = ''
    started_at: float | None = None
    ended_at: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    test_metrics: dict[str, Any] = field(default_factory=dict)
    reason: FailureReason | None = None
    message: str = ''


@dataclass
class RunState:
    """The state of a run. :meth:`apply` is the only thing that changes it."""
    header: Header | None = None
    config: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] | None = None
    baseline_test: dict[str, Any] | None = None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    strategy: dict[str, Any] | None = None
    ended: Ended | None = None
    started_at: float | None = None
    updated_at: float | None = None
    sessions: int = 0

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
                self.header, self.config, self.started_at, self.sessions = record, record.config, record.time, 1
            case Resumed():
                self.config, self.ended, self.sessions = record.config, None, self.sessions + 1
            case Baseline():
                self.baseline = record.metrics
            case StrategyState():
                self.strategy = record.state
            case Ended():
                self.ended = record
            case Tested(id=''):
                self.baseline_test = record.metrics
            case Proposed():
                self.candidates[record.id] = Candidate(record.id, record.formula, record.label, record.sample,
                                                       len(self.candidates), record.time)
            case _:
                self._apply_to(self.candidates[record.id], record)

    def _apply_to(self, candidate: Candidate, record: Record) -> None:
        match record:
            case Started():
                candidate.status, candidate.trial, candidate.started_at = 'running', record.trial, record.time
                candidate.attempts += 1
            case Finished():
                candidate.status, candidate.metrics, candidate.ended_at = 'finished', record.metrics, record.time
                candidate.reason, candidate.message = None, ''
            case Failed():
                candidate.status, candidate.ended_at = 'failed', record.time
                candidate.reason, candidate.message = record.reason, record.message
            case Tested():
                candidate.test_metrics = record.metrics

    def check(self, record: Record) -> None:
        """Raise JournalError when ``record`` cannot follow the records so far."""
        if isinstance(record, Header) != (self.header is None):
            raise JournalError('a run begins with one header' if self.header else 'the header record is missing')
        if isinstance(record, Proposed):
            if record.id in self.candidates:
                raise JournalError(f'candidate {record.id} is proposed twice')
        elif isinstance(record, Started | Finished | Failed | Tested) and record.id != '':
            candidate = self.candidates.get(record.id)
            if candidate is None:
                raise JournalError(f'candidate {record.id} is {record.event} but was never proposed')
            if candidate.status == 'finished' and not isinstance(record, Tested):
                raise JournalError(f'candidate {record.id} is {record.event} after it finished')

    @property
    def finished(self) -> list[Candidate]:
        """Evaluated candidates, in the order they finished."""
        done = [c for c in self.candidates.values() if c.status == 'finished']
        return sorted(done, key=lambda c: (c.ended_at or 0, c.number))

    @property
    def failed(self) -> list[Candidate]:
        """Candidates whose evaluation failed, in the order of proposal."""
        return [c for c in self.candidates.values() if c.status == 'failed']

    @property
    def in_flight(self) -> list[Candidate]:
        """Proposed candidates without an outcome, in the order of proposal: what a resumed run evaluates first."""
        return [c for c in self.candidates.values() if c.status in ('proposed', 'running')]

    @property
    def front(self) -> list[Candidate]:
        """Finished candidates that no other one beats in both accuracy and latency, fastest first."""
        best: list[Candidate] = []
        for candidate in sorted(self._measured(), key=lambda c: (c.metrics['latency_ms'], -c.metrics['accuracy'])):
            if not best or candidate.metrics['accuracy'] > best[-1].metrics['accuracy']:
                best.append(candidate)
        return best

    @property
    def best(self) -> Candidate | None:
        """The finished candidate with the greatest ``default`` metric, the earliest of equals."""
        return max(self.finished, key=lambda c: c.metrics.get('default', float('-inf')), default=None)

    def _measured(self) -> list[Candidate]:
        return [c for c in self.finished if 'latency_ms' in c.metrics and 'accuracy' in c.metrics]
