"""The base of all strategies: budget, order, failures, resuming."""
from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest

from syno_nni.errors import ConfigError, EngineError, JournalError, SpaceError
from syno_nni.nas.mutable import KEEP
from syno_nni.run.records import Abandoned, Finished, Submitted
from syno_nni.strategies import SynoRandom, make_strategy, strategy_names
from syno_nni.strategies import base as base_module

from ..testing import toy


@pytest.fixture(autouse=True)
def _toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setattr(base_module, '_POLL_S', 0.01)


def search(journal: toy.ToyJournal, evaluate: toy.Evaluate = toy.landscape, name: str = 'random', workers: int = 1,
           budget: int | None = None, labels: tuple[str, ...] = ('operator',), **arguments: Any) -> toy.ToyEngine:
    """Run a strategy that goes on from ``journal``; return the engine it used."""
    engine = toy.ToyEngine(evaluate, workers, budget)
    strategy = make_strategy(name, journal=journal, **{'max_trials': 5, 'concurrency': workers, **arguments})
    strategy.restore(journal.state)
    engine.strategy = strategy
    strategy(toy.model_space(*labels), engine)
    return engine


def results(journal: toy.ToyJournal) -> list[tuple[int, str, str, Any]]:
    return [(r.number, r.id, r.state, r.metrics.get('default')) for r in journal.records if isinstance(r, Finished)]


@pytest.mark.parametrize('name', strategy_names())
def test_budget_order_and_no_duplicates(name: str) -> None:
    journal = toy.ToyJournal()
    engine = search(journal, name=name, max_trials=7)
    assert engine.order[0] == {'operator': KEEP}, 'the baseline comes first'
    assert [n for n, *_ in results(journal)] == list(range(8))
    assert len({i for _, i, *_ in results(journal)}) == 8
    assert engine.strategy.ended == 'budget'


@pytest.mark.parametrize('name', strategy_names())
def test_an_exhausted_space_ends_the_search(name: str) -> None:
    journal = toy.ToyJournal()
    engine = search(journal, name=name, max_trials=100)
    assert len(journal.state.operators) == len(toy.OPERATORS)
    assert engine.strategy.ended == 'exhausted'


def test_the_engine_may_have_less_budget() -> None:
    journal = toy.ToyJournal()
    engine = search(journal, max_trials=None, budget=3)
    assert len(results(journal)) == 3
    assert engine.strategy.ended == 'budget'


def test_concurrency_is_used_and_kept() -> None:
    barrier = threading.Barrier(2, timeout=20)
    journal = toy.ToyJournal()

    def evaluate(sample: dict[str, str]) -> dict[str, float]:
        if sample['operator'] != KEEP:
            barrier.wait()
        return toy.landscape(sample)

    first = search(journal, workers=1, max_trials=0, evaluate=toy.landscape)
    assert first.most_running == 1
    engine = search(journal, evaluate, workers=2, max_trials=4)
    assert engine.most_running == 2


@pytest.mark.parametrize(('outcome', 'kind'), [
    (RuntimeError('out of luck'), 'died'),
    (toy.NO_REPORT, 'invalid-metric'),
    (math.nan, 'invalid-metric'),
    (math.inf, 'invalid-metric'),
    (None, 'invalid-metric'),
    ('good', 'invalid-metric'),
    (True, 'invalid-metric'),
    ({'accuracy': 0.9}, 'invalid-metric'),
    ({'default': 0.9, 'accuracy': math.nan}, 'invalid-metric'),
    ({'default': 0.0, 'failure': 'timeout', 'message': 'too slow'}, 'timeout'),
    ({'default': 0.0, 'failure': 'exception', 'message': 'MemoryError'}, 'exception'),
])
def test_every_failure_is_typed_and_the_search_goes_on(outcome: Any, kind: str) -> None:
    journal, seen = toy.ToyJournal(), []

    def evaluate(sample: dict[str, str]) -> Any:
        seen.append(sample)
        if len(seen) != 3:
            return toy.landscape(sample)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    search(journal, evaluate)
    states = [(c.status, c.error and c.error.kind) for c in journal.state.operators]
    assert states == [('succeeded', None), ('failed', kind), *[('succeeded', None)] * 3]


def test_what_was_known_of_a_rejected_candidate_is_kept() -> None:
    journal = toy.ToyJournal()
    report = {'default': 0.0, 'failure': 'rejected', 'stage': 'latency', 'message': '9 ms, allowed are 5', 'latency_ms': 9.0}
    search(journal, lambda s: toy.landscape(s) if s['operator'] == KEEP else report, max_trials=2)
    for candidate in journal.state.operators:
        assert (candidate.error.kind, candidate.error.message) == ('rejected', '9 ms, allowed are 5')
        assert candidate.metrics == {'stage': 'latency', 'latency_ms': 9.0}


def test_what_is_no_operator_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    space = toy.ToySpace()
    formulas = iter(['out[n:N] = nonsense', *map(str, toy.OPERATORS.values())])
    monkeypatch.setattr(space, 'sample', lambda rng: next(formulas), raising=False)
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: space)
    journal = toy.ToyJournal()
    search(journal, max_trials=2)
    assert [c.formula for c in journal.state.operators] == list(map(str, toy.OPERATORS.values()))[:2]


def test_a_filter_rejects_without_cost_and_the_reason_is_on_record() -> None:
    from nni.nas.profiler import Profiler
    from nni.nas.strategy.middleware import Chain

    from syno_nni.nas.filters import ProfilerFilter

    class Index(Profiler):
        def __init__(self) -> None:
            pass

        def profile(self, sample: dict[str, str]) -> float:
            return toy.landscape(sample)['default']

    def run(journal: toy.ToyJournal) -> toy.ToyEngine:
        engine = toy.ToyEngine(toy.landscape)
        strategy = make_strategy('random', journal=journal, max_trials=3)
        strategy.restore(journal.state)
        complaint = lambda values: None if values['macs'] > 4 else f'{values["macs"]:g} MACs'  # noqa: E731
        Chain(strategy, ProfilerFilter({'macs': Index()}, complaint))(toy.model_space(), engine)
        return engine

    journal = toy.ToyJournal()
    engine = run(journal)
    assert engine.order[0] == {'operator': KEEP}, 'the baseline always passes'
    assert len(engine.order) == 4, 'what was rejected does not count'
    rejected = [c for c in journal.state.operators if c.error]
    assert rejected
    for candidate in rejected:
        assert candidate.error.kind == 'rejected' and candidate.error.message == f'{candidate.metrics["macs"]:g} MACs'
        assert not candidate.started
    cut = toy.ToyJournal(journal.records[:-3])
    run(cut)
    assert results(cut) == results(journal), 'resuming is exact'


def test_numpy_metrics_and_plain_numbers_are_metrics() -> None:
    import numpy as np
    journal = toy.ToyJournal()
    search(journal, lambda sample: np.float32(0.5) if sample['operator'] == KEEP else 0.25)
    assert [value for *_, value in results(journal)] == [0.5, *[0.25] * 5]


def test_a_trial_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, '_GRACE_S', 0.0)
    journal = toy.ToyJournal()
    search(journal, lambda s: toy.HANG if len(journal.state.operators) == 1 else toy.landscape(s), workers=2,
           concurrency=1, max_trials=2, max_trial_duration_s=0.2)
    assert journal.state.operators[0].error.kind == 'timeout'


def test_the_time_for_the_search_is_a_limit() -> None:
    journal = toy.ToyJournal()
    engine = search(journal, lambda s: toy.landscape(s) if s['operator'] == KEEP else toy.HANG, max_duration_s=0.3)
    assert engine.strategy.ended == 'time'
    assert isinstance(journal.records[-1], Abandoned)
    assert [c.status for c in journal.state.operators] == ['waiting']


def test_a_broken_baseline_ends_the_search() -> None:
    def evaluate(sample: dict[str, str]) -> float:
        raise ValueError
    journal = toy.ToyJournal()
    with pytest.raises(EngineError, match='baseline'):
        search(journal, evaluate)
    search(journal)
    assert len(results(journal)) == 6, 'resuming tries again'


def test_a_failing_callback_reaches_the_main_thread() -> None:
    journal = toy.ToyJournal(limit=4, error=JournalError('disk full'))
    with pytest.raises(JournalError, match='disk full'):
        search(journal)


def test_a_model_space_of_others_is_refused() -> None:
    from nni.mutable import Categorical
    from nni.nas.space import SimplifiedModelSpace
    space = SimplifiedModelSpace(toy.Nothing(), {'x': Categorical([1, 2], label='x')}, None)
    with pytest.raises(SpaceError, match='OperatorChoice'):
        SynoRandom()(space, toy.ToyEngine(toy.landscape))


def test_several_choices() -> None:
    journal = toy.ToyJournal()
    search(journal, name='evolution', labels=('a', 'b'), max_trials=20)
    assert len({c.id for c in journal.state.operators}) == 20
    assert journal.state.operators[0].formula.startswith('a: out[')


# --- resuming --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', strategy_names())
def test_killed_anywhere_the_history_is_the_same(name: str) -> None:
    whole = toy.ToyJournal()
    search(whole, name=name)
    for cut in range(2, len(whole.records)):
        journal = toy.ToyJournal(whole.records[:cut])
        engine = search(journal, name=name)
        assert results(journal) == results(whole), f'after {cut} records'
        done = {r.id for r in whole.records[:cut] if isinstance(r, Finished)}
        again = {r.id for r in journal.records[cut:] if isinstance(r, Submitted)}
        assert not done & again, 'nothing finished is evaluated again'
        assert len(engine.order) == 6 - len(done)


def test_a_candidate_that_kills_the_search_three_times_is_given_up() -> None:
    whole = toy.ToyJournal()
    search(whole, max_trials=3)
    cut = next(i for i, r in enumerate(whole.records) if isinstance(r, Submitted) and r.number == 2) + 1
    twice = [*whole.records[:cut], whole.records[cut - 1].model_copy(update={'attempt': 2})]
    thrice = [*twice, whole.records[cut - 1].model_copy(update={'attempt': 3})]
    for records, max_attempts, status in ((twice, 3, 'succeeded'), (thrice, 3, 'failed'), (thrice, None, 'succeeded')):
        journal = toy.ToyJournal(records)
        search(journal, max_trials=3, max_attempts=max_attempts)
        candidate = journal.state.operators[1]
        assert [c.status for c in journal.state.operators] == ['succeeded', status, 'succeeded']
        assert status == 'succeeded' or candidate.error.kind == 'lost'


def test_a_clean_end_is_no_attempt() -> None:
    journal = toy.ToyJournal()
    for _ in range(4):
        search(journal, lambda s: toy.landscape(s) if s['operator'] == KEEP else toy.HANG, max_duration_s=0.1)
        assert journal.state.operators[0].attempts == 0
    search(journal)
    assert len(results(journal)) == 6


def test_more_budget_goes_on() -> None:
    journal = toy.ToyJournal()
    search(journal, max_trials=2)
    engine = search(journal, max_trials=4)
    assert len(engine.order) == 2
    assert [n for n, *_ in results(journal)] == [0, 1, 2, 3, 4]


def test_the_baselines_curve_reaches_the_evaluator() -> None:
    from nni.nas.execution.event import IntermediateMetricEvent

    from syno_nni.nas.stages import Reference

    class Engine(toy.ToyEngine):
        def submit_models(self, *models: Any) -> None:
            for model in models:
                seen.append(model.evaluator.reference)
                for accuracy in (0.5, 0.7):
                    self.dispatch_model_event(IntermediateMetricEvent(model, {'default': accuracy, 'accuracy': accuracy}))
            super().submit_models(*models)

    class Evaluator:
        reference = Reference()

    def run(journal: toy.ToyJournal) -> None:
        space = toy.model_space()
        space.evaluator = Evaluator()
        strategy = make_strategy('random', journal=journal, max_trials=2)
        strategy.restore(journal.state)
        strategy(space, Engine(lambda sample: {**toy.landscape(sample), 'proxy_accuracy': 0.4}))

    seen: list[Any] = []
    journal = toy.ToyJournal()
    run(journal)
    assert seen == [Reference(), *[Reference(0.4, (0.5, 0.7), 0.5)] * 2]
    seen.clear()
    run(toy.ToyJournal(journal.records[:-1]))
    assert seen == [Reference(0.4, (0.5, 0.7), 0.5)], 'resumed'


@pytest.mark.parametrize('name', strategy_names())
def test_state_dict_is_json_and_goes_on(name: str) -> None:
    whole, half = toy.ToyJournal(), toy.ToyJournal()
    search(whole, name=name)
    state = json.loads(json.dumps(search(half, name=name, max_trials=2).strategy.state_dict()))
    engine = toy.ToyEngine(toy.landscape)
    strategy = make_strategy(name, max_trials=5)
    strategy.load_state_dict(state)
    strategy(toy.model_space(), engine)
    assert [(o.candidate.number, o.candidate.id, 'succeeded', o.reward) for o in strategy.history] == results(whole)
    with pytest.raises(EngineError, match='seed'):
        make_strategy(name, seed=1).load_state_dict(state)


def test_bad_names_and_arguments() -> None:
    with pytest.raises(ConfigError, match="did you mean 'evolution'"):
        make_strategy('evolutoin')
    with pytest.raises(ConfigError, match='classArgs'):
        make_strategy('random', colour='red')
    with pytest.raises(ConfigError, match='random_share'):
        make_strategy('evolution', random_share=2)
