"""What a run knows: the journal's records, replayed in order into one state."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from syno_nni.errors import JournalError

from .candidate import BASELINE, Candidate, Outcome
from .records import Abandoned, Ended, Error, Finished, Header, Healed, Intermediate, Record, Resumed, Scored, Submitted, Tested


@dataclass
class Trial:
    """The evaluation of one candidate as the journal tells it: where it stands, and its outcome once there is one. Times
    are Unix seconds."""
    candidate: Candidate
    submitted_at: float
    flying: bool = True
    """Whether it is with the engine, for all that the journal knows; if not, it waits to be submitted again."""
    attempts: int = 1
    outcome: Outcome | None = None
    healed_metrics: dict[str, Any] = field(default_factory=dict)
    """After further training, where there was some."""
    test_metrics: dict[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    """Validation accuracy after each epoch of the last attempt."""

    @property
    def id(self) -> str:
        return self.candidate.id

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def formula(self) -> str:
        return self.candidate.formula

    @property
    def summary(self) -> str:
        return self.candidate.summary

    @property
    def sample(self) -> Mapping[str, str]:
        return self.candidate.sample

    @property
    def status(self) -> Literal['running', 'waiting', 'succeeded', 'failed']:
        if self.outcome is None:
            return 'running' if self.flying else 'waiting'
        return 'failed' if self.outcome.error else 'succeeded'

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Those of the outcome, or of later training; empty before."""
        if self.outcome is None:
            return {}
        return {**self.outcome.metrics, **self.healed_metrics} if self.healed_metrics else self.outcome.metrics

    @property
    def error(self) -> Error | None:
        return self.outcome.error if self.outcome else None

    @property
    def duration_s(self) -> float | None:
        return self.outcome.duration_s if self.outcome else None

    @property
    def started(self) -> bool:
        """Whether a trial was started for it; not if it was rejected for its size."""
        return self.outcome is None or self.outcome.started


@dataclass
class RunState:
    """The state of a run. :meth:`apply` is the only thing that changes it."""
    header: Header | None = None
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, Trial] = field(default_factory=dict)
    """By id, the baseline included, in the order of their first submission."""
    library: dict[str, Scored] = field(default_factory=dict)
    """What a search by retrofit knows of operators, by formula."""
    finish_order: list[str] = field(default_factory=list)
    """The ids of all that have an outcome, in the order of the journal: clocks may stand still or step back."""
    ended: Ended | None = None
    started_at: float | None = None
    updated_at: float | None = None
    elapsed_s: float = 0.0
    """Seconds between the first and the last record; a clock that was set back meanwhile takes nothing away."""
    sessions: int = 0
    """How many processes have worked on the run."""

    def apply(self, record: Record) -> None:
        """Take one record in; raise JournalError and change nothing when it contradicts the state."""
        self.check(record)
        if self.updated_at is not None:
            self.elapsed_s += max(0.0, record.time - self.updated_at)
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
                accuracy = record.metrics.get('accuracy')
                if isinstance(accuracy, int | float):
                    self.candidates[record.id].curve.append(accuracy)
            case Abandoned():
                trial = self.candidates[record.id]
                trial.flying, trial.attempts = False, trial.attempts - 1
            case Finished():
                trial = self.candidates[record.id]
                self.finish_order.append(record.id)
                trial.outcome = Outcome.of_record(trial.candidate, record)
            case Scored():
                self.library[record.formula] = record
            case Healed():
                self.candidates[record.id].healed_metrics = record.metrics
            case Tested():
                self.candidates[record.id].test_metrics = record.metrics

    def _new_session(self, record: Header | Resumed) -> None:
        self.config, self.environment, self.ended = record.config, record.environment, None
        self.sessions += 1

    def _submit(self, record: Submitted) -> None:
        trial = self.candidates.get(record.id)
        if trial is None:
            self.candidates[record.id] = Trial(Candidate.of_record(record), record.time)
        else:
            trial.flying, trial.submitted_at, trial.curve = True, record.time, []
            trial.attempts += 1

    def check(self, record: Record) -> None:
        """Raise JournalError when ``record`` cannot follow the records so far."""
        if isinstance(record, Header) != (self.header is None):
            raise JournalError('a run begins with one header' if self.header else 'the header record is missing')
        if not isinstance(record, Submitted | Intermediate | Abandoned | Finished | Healed | Tested):
            return
        trial = self.candidates.get(record.id)
        if trial is None and not isinstance(record, Submitted):
            raise JournalError(f'candidate {record.id} is {record.event} but was never submitted')
        if trial is not None and trial.outcome is not None and isinstance(record, Submitted | Abandoned | Finished):
            raise JournalError(f'candidate {record.id} is {record.event} after it finished')

    @property
    def baseline(self) -> Trial | None:
        """The original model, once it was evaluated."""
        candidate = self.candidates.get(BASELINE)
        return candidate if candidate is not None and candidate.status == 'succeeded' else None

    @property
    def operators(self) -> list[Trial]:
        """All candidates but the baseline, by number."""
        return sorted((c for c in self.candidates.values() if c.id != BASELINE), key=lambda c: c.number)

    @property
    def succeeded(self) -> list[Trial]:
        """Operators with a result, in the order in which the results came."""
        return [c for c in self.finished if c.status == 'succeeded' and c.id != BASELINE]

    @property
    def finished(self) -> list[Trial]:
        """All candidates with an outcome, the baseline included, in the order in which the outcomes came."""
        return [self.candidates[name] for name in self.finish_order]

    @property
    def failed(self) -> list[Trial]:
        """Operators whose evaluation failed, by number."""
        return [c for c in self.operators if c.status == 'failed']

    @property
    def in_flight(self) -> list[Trial]:
        """Candidates without an outcome (perhaps the baseline too): what a resumed run evaluates first."""
        return [c for c in self.candidates.values() if c.outcome is None]

    @property
    def measured(self) -> list[Trial]:
        """Operators with both an accuracy and a latency."""
        return [c for c in self.succeeded if {'latency_ms', 'accuracy'} <= c.metrics.keys()]

    def latency_ms(self, candidate: Trial) -> float:
        """The latency to compare candidates by: the original model's, divided by the candidate's speedup.

        Candidates are timed at different times, while the machine may be busy or slow; each takes turns with the
        original model, so the speedups compare. Without them, this is the latency as it was measured.
        """
        speedup = candidate.metrics.get('speedup')
        if self.baseline is None or not speedup or 'latency_ms' not in self.baseline.metrics:
            return candidate.metrics['latency_ms']
        return self.baseline.metrics['latency_ms'] / speedup

    @property
    def front(self) -> list[Trial]:
        """Operators that no other one beats in both ``accuracy`` and :meth:`latency_ms`, fastest first."""
        best: list[Trial] = []
        for candidate in sorted(self.measured, key=lambda c: (self.latency_ms(c), -c.metrics['accuracy'])):
            if not best or candidate.metrics['accuracy'] > best[-1].metrics['accuracy']:
                best.append(candidate)
        return best

    @property
    def best(self) -> Trial | None:
        """The operator with the greatest ``default`` metric, the earliest of equals."""
        return max(self.succeeded, key=lambda c: c.metrics.get('default', float('-inf')), default=None)
