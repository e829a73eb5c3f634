"""The operator as a mutable, and its slot."""
from __future__ import annotations

import json
import warnings
from typing import Any

import nni
import pytest
import torch
from nni.mutable import SampleValidationError
from nni.nas.space import ModelStatus, SimplifiedModelSpace, model_context
from numpy.random import RandomState
from torch import nn

from syno_nni.errors import EngineError, SpaceError
from syno_nni.nas.flat_space import FlatModelSpace
from syno_nni.nas.mutable import GRID_LIMIT, KEEP, OperatorChoice, operator_pool, operator_space
from syno_nni.nas.slot import ModelSpace, OperatorSlot

from ...testing import toy

FORMULAS = [str(op) for op in toy.OPERATORS.values()]


@pytest.fixture(autouse=True)
def _toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())


@pytest.fixture
def choice() -> OperatorChoice:
    return OperatorChoice({'preset': 'toy'}, label='op')


def test_sample_value_frozen_value_and_shown_value_are_one(choice: OperatorChoice) -> None:
    memo: dict[str, Any] = {}
    value = choice.random(memo, RandomState(0))
    assert memo == {'op': value}
    assert choice.freeze(memo) == value in FORMULAS
    assert choice.random({'op': FORMULAS[3]}) == FORMULAS[3]
    assert json.loads(json.dumps(memo)) == memo


def test_the_default_keeps_the_layer(choice: OperatorChoice) -> None:
    assert choice.default() == choice.robust_default() == KEEP
    assert choice.contains({'op': KEEP})


@pytest.mark.parametrize(('sample', 'why'), [
    ({}, 'missing'),
    ({'op': 7}, 'got int'),
    ({'op': 'out[n:N'}, 'op: '),
    ({'op': FORMULAS[0].replace('sum[c:', 'sum[q:').replace('n, c', 'n, q').replace('o, c', 'o, q')}, 'not canonical'),
    ({'op': 'out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]'}, 'outside the space'),
])
def test_bad_samples_are_returned_as_errors(choice: OperatorChoice, sample: dict[str, Any], why: str) -> None:
    error = choice.check_contains(sample)
    assert isinstance(error, SampleValidationError)
    assert why in str(error)
    with pytest.raises(SampleValidationError):
        choice.freeze(sample)


def test_grid_is_bounded_and_keep_is_drawn(choice: OperatorChoice) -> None:
    assert list(choice.grid(granularity=1)) == [KEEP, next(v for v in choice.grid(granularity=2) if v != KEEP)]
    assert len(list(choice.grid(granularity=30))) == len(FORMULAS) + 1 <= GRID_LIMIT
    keeping = OperatorChoice({'preset': 'toy'}, keep=0.5, label='op')
    drawn = [keeping.random(random_state=RandomState(i)) for i in range(40)]
    assert 5 < drawn.count(KEEP) < 35


def test_equality_and_label(choice: OperatorChoice) -> None:
    assert choice.equals(OperatorChoice({'preset': 'toy'}, label='op'))
    assert not choice.equals(OperatorChoice({'preset': 'other'}, label='op'))
    assert choice.simplify() == {'op': choice}
    json.dumps(choice.as_legacy_dict())


def test_bad_descriptions_of_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(SpaceError, match='JSON'):
        operator_space({'preset': 'conv2d', 'bindings': object()})
    with pytest.raises(SpaceError, match="'preset'"):
        operator_space({'bindings': []})
    with pytest.raises(SpaceError):
        operator_space({'preset': 'conv2d', 'colour': 'red'})
    assert operator_space({'preset': 'conv2d'}) is operator_space({'preset': 'conv2d'})


# --- the slot in a model space ---------------------------------------------------------------------------------------

class Fill:
    """Stands for the layer of a formula."""

    def __call__(self, formula: str) -> nn.Module:
        layer = nn.Conv2d(4, 4, 1)
        layer.formula = formula
        return layer


class TwoSlots(ModelSpace):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = OperatorSlot(nn.Conv2d(4, width, 3, padding=1), Fill(), {'preset': 'toy'})
        self.second = OperatorSlot(nn.Conv2d(width, 4, 3, padding=1), Fill(), {'preset': 'toy'})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_a_dry_run_is_the_original() -> None:
    space = TwoSlots(4)
    assert space(torch.ones(1, 4, 5, 5)).shape == (1, 4, 5, 5)
    assert list(space.simplify()) == ['operator'], 'one label is one choice'


def test_a_trial_gets_plain_layers() -> None:
    with model_context({'operator': FORMULAS[1]}):
        model = TwoSlots(4)
    assert model.first.formula == model.second.formula == FORMULAS[1]
    assert not any(isinstance(m, OperatorSlot) for m in model.modules())
    with model_context({'operator': KEEP}):
        assert isinstance(TwoSlots(4).first, nn.Conv2d)


def test_freezing_keeps_the_weights_of_kept_layers() -> None:
    space = TwoSlots(4)
    assert space.freeze({'operator': KEEP}).first.weight is space.first.layer.weight
    assert space.freeze({'operator': FORMULAS[0]}).first.formula == FORMULAS[0]


# --- the form that travels -------------------------------------------------------------------------------------------

def test_parameters_are_flat_plain_and_come_back() -> None:
    from syno_nni.nas.evaluator import OperatorEvaluator
    from syno_nni.nas.stages import Reference
    from syno_nni.trial import read_payload, read_sample
    evaluator = OperatorEvaluator({'model': {'name': 'resnet10t'}})
    evaluator.reference = Reference(0.5, (0.25, 0.75))
    frozen = FlatModelSpace.from_model(TwoSlots(width=4), evaluator).freeze({'operator': FORMULAS[2]})
    shown = frozen.parameters()
    assert shown['operator'] == FORMULAS[2], 'a column that a person can read'
    assert all(isinstance(v, str) for v in shown.values()), 'nothing the web UI shows as [object Object]'
    assert '__' not in json.dumps(shown), 'nothing that NNI takes for an object'
    config, reference = read_payload(json.loads(json.dumps(shown)))
    assert (config, reference()) == (evaluator.config, evaluator.reference)
    back = FlatModelSpace.from_model(TwoSlots(width=4), evaluator).recreate(read_sample(shown, ['operator']))
    assert back.sample == {'operator': FORMULAS[2]}
    assert back.status is ModelStatus.Frozen
    assert back.executable_model().first.formula == FORMULAS[2]


def test_a_model_that_plain_data_cannot_describe_is_refused() -> None:
    frozen = FlatModelSpace.from_model(TwoSlots(width=4)).freeze({'operator': FORMULAS[2]})
    with pytest.raises(EngineError, match='OperatorEvaluator'):
        frozen.parameters()


def test_stock_nni_cannot_show_or_print_it() -> None:
    """Why there is a FlatModelSpace; fails when NNI is repaired."""
    frozen = SimplifiedModelSpace.from_model(TwoSlots(width=4)).freeze({'operator': FORMULAS[2]})
    assert any(isinstance(v, dict) for v in frozen._dump().values())
    assert not isinstance(nni.load(nni.dump(frozen)).status, ModelStatus)


@pytest.mark.parametrize('name', ['Random', 'RegularizedEvolution'])
def test_nnis_own_strategies_work(name: str) -> None:
    import nni.nas.strategy as stock
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.execution import SequentialExecutionEngine

    seen: list[str] = []

    def evaluate(model: nn.Module) -> None:
        seen.append(getattr(model.first, 'formula', KEEP))
        nni.report_final_result(0.1 * len(seen))

    arguments = {'population_size': 3, 'sample_size': 2} if name == 'RegularizedEvolution' else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        space = FlatModelSpace.from_model(TwoSlots(width=4), FunctionalEvaluator(evaluate))
        getattr(stock, name)(**arguments)(space, SequentialExecutionEngine(max_model_count=6))
    assert len(seen) == 6
    assert set(seen) <= {*FORMULAS, KEEP}


@pytest.mark.parametrize('name', ['TPE', 'PolicyBasedRL'])
def test_nnis_strategies_for_finite_spaces_work_on_a_pool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == 'PolicyBasedRL':
        pytest.importorskip('tianshou')
    import nni.nas.strategy as stock
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.execution import SequentialExecutionEngine


    seen: list[str] = []

    def evaluate(model: nn.Module) -> None:
        seen.append(str(model))
        nni.report_final_result(0.1 * len(seen))

    monkeypatch.setattr('time.sleep', lambda seconds: None)
    pool = operator_pool({'preset': 'toy'}, 3, label='operator')
    assert len(pool.values) == 4 and set(pool.values) <= {*FORMULAS, KEEP}
    arguments = {'samples_per_update': 2} if name == 'PolicyBasedRL' else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        space = SimplifiedModelSpace(nni.trace(nn.Identity)(), {'operator': pool}, FunctionalEvaluator(evaluate))
        getattr(stock, name)(**arguments)(space, SequentialExecutionEngine(max_model_count=4))
    assert len(seen) == 4


def test_slots_can_share_a_pool() -> None:
    class Pooled(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.slots = nn.ModuleList(
                OperatorSlot(nn.Identity(), lambda formula: nn.Identity(), {'preset': 'toy'}, pool=3) for _ in range(2))

    (choice,) = Pooled().simplify().values()
    assert len(choice.values) == 4 and choice.values[0] == KEEP
    with pytest.raises(SpaceError, match='only 9 were found'):
        operator_pool({'preset': 'toy'}, 10)
