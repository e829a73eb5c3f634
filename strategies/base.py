"""What all our strategies share: proposing within the budget, listening to NNI, a history that survives anything.

A subclass says what to try next (:meth:`SynoStrategy.propose`) and may learn from results
(:meth:`SynoStrategy.observe`). The base class does the rest:

- Proposal *n* draws from a random stream of its own, ``default_rng((seed, n))``. So the state to go on from is the
  history: no generator state can get lost, and a resumed search does what an uninterrupted one would.
- Every event goes to the journal before anything depends on it. :meth:`SynoStrategy.restore` goes on from one:
  candidates with an outcome are not evaluated again, those that were in flight are evaluated first.
- Every candidate gets an :class:`~syno_nni.run.candidate.Outcome`: evaluations that raise, hang, die or report nonsense
  become typed failures, which count towards the budget.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, IntermediateMetricEvent, ModelEventType, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus
from nni.nas.strategy import Strategy
from pydantic import Field

from syno_nni.errors import EngineError, SynoError
from syno_nni.nas.mutable import OperatorChoice
from syno_nni.nas.signals import shielded, stop_if_asked
from syno_nni.nas.stages import Reference
from syno_nni.run.candidate import BASELINE, KEEP, Candidate, Failure, Outcome, Proposal, plain, sample_id, unusable
from syno_nni.run.records import Abandoned, Error, Intermediate, OutcomeKind, Record
from syno_nni.run.state import RunState

from .arguments import Above0, AtLeastOne
from .settings import Settings

_log = logging.getLogger(__name__)

_POLL_S = 0.5
_HEALTH_CHECK_S = 5.0
_LONGEST_SILENCE_S = 60.0
_GRACE_S = 120.0
# How long a trial may overrun its limit before the strategy stops waiting for the engine to end it.


class RecordSink(Protocol):
    """Where records go: a :class:`~syno_nni.run.journal.Journal`."""

    def append(self, record: Record) -> None: ...


@dataclass
class _Flight:
    """A submitted candidate; ``report`` is its final metric, once there is one."""
    candidate: Candidate
    started: float
    report: Any = None
    has_report: bool = False


class SynoStrategy(Strategy):
    """Base class of the strategies that propose operators. Works with any NNI engine, and above NNI's middlewares.

    Args:
        seed: of all random decisions.
        max_trials: how many proposals to evaluate, failures included; the baseline does not count, nor what a filter
            rejects before a trial is started. None: as many as the engine allows.
        concurrency: how many candidates may be in flight.
        max_duration_s: seconds after which nothing is awaited any more. Candidates in flight then stay so in the
            journal, to be taken up when the search resumes.
        max_trial_duration_s: seconds for one evaluation. Evaluators and NNI's manager enforce it; the strategy only
            stops waiting some time later.
        baseline: whether to evaluate the sample that keeps every layer first; the search fails if that fails.
        journal: gets every record, from several threads but one at a time.
        max_attempts: how often a candidate may be in flight when the search is killed, before it counts as the cause and
            is recorded as ``lost``. None where evaluations have processes of their own: they cannot be the cause.
        patience: how many proposals in a row may be known already before the space counts as exhausted.
    """

    def __init__(self, *, seed: int = 0, max_trials: AtLeastOne | None = None,
                 concurrency: Annotated[AtLeastOne, Field(le=4096)] = 1, max_duration_s: Above0 | None = None,
                 max_trial_duration_s: Above0 | None = None, baseline: bool = True, journal: RecordSink | None = None,
                 max_attempts: AtLeastOne | None = 3, patience: AtLeastOne = 200) -> None:
        super().__init__()
        self.seed = seed
        self.max_trials = max_trials
        self.concurrency = concurrency
        self.max_duration_s = max_duration_s
        self.max_trial_duration_s = max_trial_duration_s
        self.baseline = baseline
        self.journal = journal
        self.max_attempts = max_attempts
        self.patience = patience
        self.history: list[Outcome] = []
        """Outcomes in the order in which they came in, those of the baseline and of earlier runs included."""
        self.choices: dict[str, OperatorChoice] = {}
        """The choices of the model space by label; known once the strategy is initialized."""
        self.beside: Settings | None = None
        """What the space chooses beside operators; None where it chooses nothing else. Subclasses never see the values."""
        self.ended: Literal['budget', 'time', 'exhausted'] | None = None
        """Why the search stopped of itself."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Strong references: the engine holds only weak ones and drops the events of models that are gone.
        self._flights: dict[ExecutableModelSpace, _Flight] = {}
        self._known: set[str] = set()
        self._attempts: dict[int, int] = {}
        self._waiting: list[Candidate] = []
        self._past: list[Outcome] = []
        self._next = 1
        self._unstarted = self._concluded = 0
        self._curve: list[float] = []
        self._exhausted = False
        self._silence = 0
        self._broken: Exception | None = None

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """What to try next; None when there is nothing. Called with the lock held.

        It must depend on nothing but ``rng`` and what :meth:`expect` and :meth:`observe` have seen, or resuming is not
        exact. It may return what is known already: it is then called again, with the stream where it was left.
        """
        raise NotImplementedError

    def expect(self, candidate: Candidate) -> None:
        """Learn that a proposal was accepted and will be evaluated. Called with the lock held; when a search resumes,
        for every candidate of the past, before its outcome if it has one."""

    def observe(self, outcome: Outcome) -> None:
        """Learn from the outcome of a proposal, failures included. Called with the lock held, in the order of
        :attr:`history`; when a search resumes, for every outcome of the past first."""

    def is_known(self, sample: Mapping[str, str]) -> bool:
        """Whether the sample, or an equal one, was proposed before. What is no operator counts as known: a fault of a
        space must not end a search."""
        try:
            return sample_id(sample) in self._known
        except SynoError as error:
            _log.info('skipped a proposal: %s: %s', error, dict(sample))
            return True

    # --- state -------------------------------------------------------------------------------------------------------

    def restore(self, state: RunState) -> None:
        """Go on from what a journal holds. To be called before the strategy runs."""
        self._past = [trial.outcome for trial in state.finished if trial.outcome is not None]
        if state.baseline is not None:
            self._curve = list(state.baseline.curve)
        for trial in sorted(state.in_flight, key=lambda t: t.number):
            self._attempts[trial.number] = trial.attempts
            self._waiting.append(trial.candidate)
        self._know()

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, for NNI's own checkpoints; a journal makes it superfluous."""
        with self._lock:
            flying = [f.candidate for f in self._flights.values()] + self._waiting
            return {'version': 1, 'seed': self.seed,
                    'waiting': [_plain_candidate(c) for c in flying],
                    'history': [{**o.record().model_dump(mode='json'), 'candidate': _plain_candidate(o.candidate)}
                                for o in self._past + self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get('version') != 1 or state_dict.get('seed') != self.seed:
            raise EngineError(f'cannot go on from strategy state of version {state_dict.get("version")!r} and seed '
                              f'{state_dict.get("seed")!r}: want version 1 and seed {self.seed}')
        self._past = [Outcome(Candidate(**o['candidate']), o['metrics'],
                              Error(**o['error']) if o['error'] else None, o['duration_s'])
                      for o in state_dict['history']]
        self._waiting = [Candidate(**c) for c in state_dict['waiting']]
        self._know()

    def _know(self) -> None:
        for candidate in [o.candidate for o in self._past] + self._waiting:
            self._known.add(candidate.id)
            self._next = max(self._next, candidate.number + 1)

    # --- without an engine: whoever evaluates asks and tells ---------------------------------------------------------

    def begin(self, choices: Mapping[str, OperatorChoice]) -> list[Candidate]:
        """Begin, in the place of ``initialize`` and ``run``, and return the candidates that were in flight when the
        state to go on from (:meth:`restore`) was left: whoever evaluates may have kept them. :meth:`ask` does not
        return them."""
        with self._lock:
            self.choices = dict(choices)
            self._begin()
            left = [c for c in self._waiting if c.number in self._attempts]
            self._waiting = [c for c in self._waiting if c.number not in self._attempts]
            return left

    def ask(self) -> Candidate | None:
        """The next candidate to evaluate, the baseline first; None when there is nothing new. It is on record then."""
        with self._lock:
            candidate = self._next_candidate()
            if candidate is not None:
                self._record_submission(candidate)
            return candidate

    def tell(self, outcome: Outcome) -> None:
        """Learn how the evaluation of a candidate ended.

        Raises:
            EngineError: the baseline failed.
        """
        with self._lock:
            self._conclude(outcome)

    # --- NNI's protocol ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        return f'seed={self.seed}, max_trials={self.max_trials}'

    def _initialize(self, model_space: ExecutableModelSpace, engine: ExecutionEngine) -> ExecutableModelSpace:
        mutables = model_space.simplify()
        self.choices = {label: m for label, m in mutables.items() if isinstance(m, OperatorChoice)}
        settings = Settings(mutables, type(self).__name__)
        self.beside = settings if settings.mutables else None
        for event, callback in self._callbacks():
            engine.register_model_event_callback(event, callback)
        return model_space

    def _cleanup(self) -> None:
        for event, callback in self._callbacks():
            self.engine.unregister_model_event_callback(event, callback)
        with self._lock:
            for flight in self._flights.values():
                self._append(Abandoned(number=flight.candidate.number, id=flight.candidate.id))
            self._flights.clear()

    def _callbacks(self) -> list[tuple[ModelEventType, Callable[[Any], None]]]:
        return [(ModelEventType.FinalMetric, self._on_final),
                (ModelEventType.IntermediateMetric, self._on_intermediate),
                (ModelEventType.TrainingEnd, self._on_end)]

    def _run(self) -> None:
        started = last_check = time.monotonic()
        self._begin()
        while self._broken is None:
            stop_if_asked()
            now, seen = time.monotonic(), self._concluded
            if self.max_duration_s is not None and now - started >= self.max_duration_s:
                self.ended = 'time'
                return
            if now - last_check >= _HEALTH_CHECK_S:
                self._check_engine()
                last_check = now
            self._give_up_overdue(now)
            if self._may_submit() and self._submit_next():
                continue
            with self._changed:
                if self._broken is None and not self._flights and not self._more_to_come():
                    self.ended = 'exhausted' if self._exhausted else 'budget'
                    return
                if self._concluded == seen:  # else a worker has become idle since it was asked for one
                    self._changed.wait(_POLL_S)
        raise self._broken

    def _begin(self) -> None:
        with self._lock:
            for outcome in self._past:
                if not outcome.candidate.is_baseline:
                    self.expect(self._of_operators(outcome.candidate))
                self._learn(outcome)
            self._past = []
            for candidate in list(self._waiting):
                if not candidate.is_baseline:
                    self.expect(self._of_operators(candidate))
                attempts = self._attempts.get(candidate.number, 0)
                if self.max_attempts is not None and attempts >= self.max_attempts:
                    self._waiting.remove(candidate)
                    self._conclude(Outcome.failed(
                        candidate, OutcomeKind.LOST,
                        f'killed {attempts} times with it; what follows differs from an uninterrupted search'))
            original = {**dict.fromkeys(self.choices, KEEP), **(self.beside.default() if self.beside else {})}
            if self.baseline and BASELINE not in self._known:
                self._waiting.insert(0, Candidate(0, original))
            self._known.add(sample_id(original))
            self._known.add(BASELINE)

    # --- submitting --------------------------------------------------------------------------------------------------

    def _more_to_come(self) -> bool:
        within = self.max_trials is None or self._next - self._unstarted <= self.max_trials
        return bool(self._waiting or (within and not self._exhausted)) and self._budget_available()

    def _may_submit(self) -> bool:
        return len(self._flights) < self.concurrency and self.engine.idle_worker_available() and self._more_to_come()

    def _budget_available(self) -> bool:
        try:
            return self.engine.budget_available()
        except Exception as error:
            raise _gone(error) from error

    def _next_candidate(self) -> Candidate | None:
        with self._lock:
            if self._waiting:
                return self._waiting.pop(0)
            rng = np.random.default_rng((self.seed, self._next))
            for _ in range(self.patience):
                proposal = self.propose(rng)
                if proposal is None:
                    break
                if self.beside:
                    proposal = replace(proposal, sample={**proposal.sample, **self.beside.propose(rng, self.history)})
                if not self.is_known(proposal.sample):
                    candidate = Candidate(self._next, proposal.sample, proposal.note)
                    self._known.add(candidate.id)
                    self._next += 1
                    self.expect(self._of_operators(candidate))
                    return candidate
            self._exhausted = True
            if proposal is not None:
                _log.warning('no new operator in %d proposals: the space seems exhausted', self.patience)
            return None

    def _submit_next(self) -> bool:
        """Submit the next candidate, if there is one."""
        # Proposed and recorded under one lock: no outcome comes between, so the journal tells what the proposal knew.
        with self._lock:
            candidate = self._next_candidate()
            if candidate is None:
                return False
            sample = dict(candidate.sample)
            model = self.model_space.freeze(self.beside.decoded(sample) if self.beside else sample)
            with shielded():
                self._record_submission(candidate)
                self._flights[model] = _Flight(candidate, time.monotonic())
        # Without the lock: an in-process engine evaluates within this call.
        self.engine.submit_models(model)
        return True

    def _record_submission(self, candidate: Candidate) -> None:
        attempt = self._attempts[candidate.number] = self._attempts.get(candidate.number, 0) + 1
        self._append(candidate.submitted(attempt, self.seed))

    def _give_up_overdue(self, now: float) -> None:
        if self.max_trial_duration_s is None:
            return
        with self._lock:
            for model, flight in list(self._flights.items()):
                seconds = now - flight.started
                if seconds > self.max_trial_duration_s + _GRACE_S:
                    del self._flights[model]
                    self._conclude(Outcome.failed(flight.candidate, OutcomeKind.TIMEOUT, f'no end after {seconds:.0f} s',
                                                  seconds))

    def _check_engine(self) -> None:
        """Raise if nothing will come any more: NNI's manager is gone, or its trials have ended unheard."""
        binding = getattr(_innermost(self.engine), 'nodejs_binding', None)
        if binding is None:
            return
        try:
            status, statistics = binding.get_status(), binding.get_job_statistics()
        except Exception as error:
            raise _gone(error) from error
        if status == 'ERROR':
            raise EngineError("NNI's manager has failed; what is finished is in the journal: resume the run")
        alive = sum(s['trialJobNumber'] for s in statistics if s['trialJobStatus'] in ('WAITING', 'RUNNING'))
        if alive or not self._flights:
            self._silence = 0
            return
        self._silence += 1
        if self._silence * _HEALTH_CHECK_S > _LONGEST_SILENCE_S:
            raise EngineError("NNI's manager has no running trial, but has not said how the last ones ended; what is "
                              'finished is in the journal: resume the run')

    # --- listening: called from the engine's thread, where an exception would end all listening ----------------------

    def _on_final(self, event: FinalMetricEvent) -> None:
        with self._guarding():
            _make_fit(event)
            flight = self._flights.get(event.model)
            if flight is not None:
                flight.report, flight.has_report = event.metric, True

    def _on_intermediate(self, event: IntermediateMetricEvent) -> None:
        with self._guarding():
            metrics = _make_fit(event)
            flight = self._flights.get(event.model)
            if flight is not None and not unusable(metrics):
                if flight.candidate.is_baseline and 'accuracy' in metrics:
                    self._curve.append(metrics['accuracy'])
                self._append(Intermediate(number=flight.candidate.number, id=flight.candidate.id, metrics=metrics))

    def _on_end(self, event: TrainingEndEvent) -> None:
        with self._guarding():
            if event.status == ModelStatus.Interrupted:
                return  # by the user, who is about to end the search: it stays in flight
            flight = self._flights.pop(event.model, None)
            if flight is not None:
                self._conclude(self._outcome(flight, event.status, time.monotonic() - flight.started))

    def _outcome(self, flight: _Flight, status: ModelStatus, seconds: float) -> Outcome:
        def failed(kind: OutcomeKind, message: str) -> Outcome:
            return Outcome.failed(flight.candidate, kind, message, seconds)

        if status == ModelStatus.Invalid:
            # Whatever it says: a filter of NNI's knows nothing of our failures.
            report = {'message': 'refused by a filter', **(flight.report if isinstance(flight.report, dict) else {})}
            failure = Failure.of_report({**report, 'failure': OutcomeKind.REJECTED})
            assert failure is not None
            return Outcome(flight.candidate, failure.metrics, failure.error, seconds)
        if flight.has_report:
            outcome = Outcome.judge(flight.candidate, flight.report, seconds)
            if outcome.error or status == ModelStatus.Trained:
                return outcome
            return failed(OutcomeKind.DIED, 'the evaluation failed after it had reported its result')
        if self.max_trial_duration_s is not None and seconds >= self.max_trial_duration_s:
            return failed(OutcomeKind.TIMEOUT, f'stopped after {seconds:.0f} s')
        if status == ModelStatus.Trained:
            return failed(OutcomeKind.INVALID_METRIC, 'the evaluation ended without a final metric')
        return failed(OutcomeKind.DIED, 'the evaluation ended without a report; see the log of the trial')

    def _conclude(self, outcome: Outcome) -> None:
        """Record an outcome, then take it in."""
        candidate, error = outcome.candidate, outcome.error
        with shielded():
            if candidate.is_baseline and error:
                # Not a result of the search: once the cause is removed, resuming tries again.
                self._append(Abandoned(number=candidate.number, id=candidate.id))
                raise EngineError('the baseline, the model without any operator, cannot be evaluated: '
                                  f'{error.kind}: {error.message}')
            self._append(outcome.record())
            self._learn(outcome)
        self._concluded += 1
        self._changed.notify_all()

    def _learn(self, outcome: Outcome) -> None:
        self.history.append(outcome)
        if outcome.candidate.is_baseline:
            self._share_baseline()
            return
        self._unstarted += not outcome.started
        self.observe(replace(outcome, candidate=self._of_operators(outcome.candidate)))

    def _of_operators(self, candidate: Candidate) -> Candidate:
        """What a subclass sees of a candidate."""
        return replace(candidate, sample=self.beside.without(candidate.sample)) if self.beside else candidate

    @property
    def reference(self) -> Reference:
        """What the original model reached, for stopping those that fall behind; empty until it is known."""
        baseline = next((o for o in self.history if o.candidate.is_baseline), None)
        if baseline is None:
            return Reference()
        return Reference(baseline.metrics.get('proxy_accuracy'), tuple(self._curve), baseline.metrics.get('accuracy'))

    def _share_baseline(self) -> None:
        evaluator = getattr(getattr(self, '_model_space', None), 'evaluator', None)
        if hasattr(evaluator, 'reference'):
            evaluator.reference = self.reference

    def _append(self, record: Record) -> None:
        if self.journal is not None:
            with shielded():
                self.journal.append(record)

    @contextmanager
    def _guarding(self) -> Iterator[None]:
        """Hold the lock; keep an exception for the main thread instead of letting it pass."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self._broken = self._broken or error
                self._changed.notify_all()


def _plain_candidate(candidate: Candidate) -> dict[str, Any]:
    return {'number': candidate.number, 'sample': dict(candidate.sample), 'note': dict(candidate.note)}


def _make_fit(event: FinalMetricEvent | IntermediateMetricEvent) -> dict[str, Any]:
    """The metrics of an event; NNI, which chokes on anything but Python numbers, gets them as such or not at all."""
    if isinstance(event.metric, Mapping):
        event.metric = metrics = plain(event.metric)
    else:
        metrics = plain({'default': event.metric})
        event.metric = metrics['default']
    if unusable(metrics):
        event.prevent_default()
    return metrics


def _gone(error: Exception) -> EngineError:
    return EngineError(f"NNI's manager does not answer any more ({type(error).__name__}); what is finished is in the "
                       'journal: resume the run')


def _innermost(engine: ExecutionEngine) -> Any:
    """The engine below all middlewares."""
    while getattr(engine, '_engine', None) is not None:
        engine = engine._engine
    return engine
