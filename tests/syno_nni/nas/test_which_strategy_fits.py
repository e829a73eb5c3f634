"""Every strategy on every kind of space, through NNI's own experiment: the table in docs/search.md, row by row."""
from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas import strategy as of_nni
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import InputChoice, LayerChoice, MutableConv2d, Repeat
from torch import Tensor, nn

from syno_nni.errors import SpaceError
from syno_nni.nas.fitting_strategies import why_not
from syno_nni.nas.slot import ModelSpace, OperatorSlot
from syno_nni.run.candidate import Outcome
from syno_nni.strategies import SynoEvolution, SynoMCTS, SynoRandom, SynoStrategy
from syno_nni.testing import toy

DOCS = Path(__file__).parents[3] / 'docs' / 'search.md'


def _fill(formula: str) -> nn.Module:
    return nn.Identity()


class Space(ModelSpace):
    """A slot, and with ``mixed`` what NNI's own spaces are made of."""

    def __init__(self, pool: int = 0, mixed: bool = False, inputs: bool = True) -> None:
        super().__init__()
        self.slot = OperatorSlot(nn.Identity(), _fill, {'preset': 'toy'}, label='op', pool=pool)
        self.mixed, self.inputs = mixed, inputs
        if mixed:
            self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label='layer')
            self.depth = Repeat(lambda index: nn.Identity(), (1, 3), label='depth')
            self.conv = MutableConv2d(3, nni.choice('width', [4, 8]) * 2, 1)
            if inputs:
                self.skip = InputChoice(n_candidates=2, n_chosen=1, label='skip')

    def forward(self, x: Tensor) -> Tensor:
        x = self.slot(x)
        if not self.mixed:
            return x
        y = self.depth(self.layer(x))
        return self.conv(self.skip([x, y]) if self.inputs else y)


def _evaluate(model: nn.Module) -> None:
    model(torch.zeros(1, 3, 4, 4))
    nni.report_final_result(float(len(str(model)) % 7))


SPACES: dict[str, dict[str, Any]] = {'operators': {}, 'a pool': {'pool': 4}, 'mixed': {'mixed': True},
                                     'mixed, a pool': {'mixed': True, 'pool': 4}}
OURS: dict[str, Callable[[], SynoStrategy]] = {
    'SynoRandom': lambda: SynoRandom(max_trials=3), 'SynoEvolution': lambda: SynoEvolution(max_trials=3, warm_up=1),
    'SynoMCTS': lambda: SynoMCTS(max_trials=3, warm_up=1)}
THEIRS: dict[str, Callable[[], Any]] = {
    'Random': of_nni.Random, 'GridSearch': of_nni.GridSearch,
    'RegularizedEvolution': lambda: of_nni.RegularizedEvolution(population_size=2, sample_size=1),
    'TPE': of_nni.TPE, 'PolicyBasedRL': lambda: of_nni.PolicyBasedRL(samples_per_update=2),
    'DARTS': of_nni.DARTS, 'Proxyless': of_nni.Proxyless, 'GumbelDARTS': of_nni.GumbelDARTS, 'ENAS': of_nni.ENAS,
    'RandomOneShot': of_nni.RandomOneShot}


@pytest.fixture(autouse=True)
def _toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())


def explore(strategy: Any, folder: Path, model_format: str = 'simplified', **space: Any) -> dict[str, Any]:
    config = NasExperimentConfig('sequential', model_format)
    config.max_trial_number = 100 if isinstance(strategy, SynoStrategy) else 4
    config.experiment_working_directory = str(folder)
    experiment = NasExperiment(Space(**space), FunctionalEvaluator(_evaluate), strategy, config)
    try:
        experiment.run(port=None)
        [best] = experiment.export_top_models(1, formatter='dict')
    finally:
        experiment.stop()
    return best


def table() -> dict[str, list[str]]:
    """The rows of the documented table: for every strategy a cell per space, ``yes`` or why not."""
    text = DOCS.read_text(encoding='utf-8').partition('<!-- fits -->')[2].partition('<!-- /fits -->')[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.strip().splitlines()]
    assert rows[0][1:] == list(SPACES)
    return {name: row[1:] for row in rows[2:] for name in re.findall(r'`(\w+)`', row[0])}


def test_the_table_has_every_strategy() -> None:
    found = {name for name, value in vars(of_nni).items() if isinstance(value, type)
             and issubclass(value, of_nni.Strategy)} - {'Strategy', 'TPEStrategy'}
    assert found == set(THEIRS)
    assert table().keys() == THEIRS.keys() | OURS.keys()


@pytest.mark.parametrize('space', SPACES)
@pytest.mark.parametrize('name', [*THEIRS, *OURS])
def test_the_table_is_true(name: str, space: str, tmp_path: Path) -> None:
    cell = table()[name][list(SPACES).index(space)]
    if name == 'PolicyBasedRL':
        pytest.importorskip('tianshou')
    strategy = {**THEIRS, **OURS}[name]()
    if cell.startswith('yes'):
        # Where it says that one kind of choice is not for it, the others are.
        inputs = 'InputChoice' not in cell
        best = explore(strategy, tmp_path, inputs=inputs, **SPACES[space])
        labels = {'op'} if 'mixed' not in space else {'op', 'layer', 'depth', 'width', *(['skip'] if inputs else [])}
        assert best.keys() == labels
        if not inputs:
            with pytest.raises(SpaceError, match="cannot choose 'skip'"):
                explore({**THEIRS, **OURS}[name](), tmp_path, **SPACES[space])
        return
    with pytest.raises(SpaceError) as caught:
        explore(strategy, tmp_path, **SPACES[space])
    said = str(caught.value)
    assert said.startswith(name) and '\n' not in said and 'out[' not in said
    assert {'needs a pool': 'pool=', 'no': 'use ', 'no pool': 'leave pool= out'}[cell] in said


@pytest.mark.parametrize('model_format', ['raw', 'simplified'])
def test_one_shot_is_refused_in_its_own_format_too(model_format: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match='DARTS trains one network'):
        explore(of_nni.DARTS(), tmp_path, model_format)


def test_other_spaces_are_left_to_nni() -> None:
    class Plain(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label='layer')

    for make in (of_nni.DARTS, of_nni.TPE):
        assert why_not(make, Plain().simplify().values()) == ''


# --- ours on mixed spaces --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', OURS)
def test_ours_choose_everything_in_a_mixed_space_and_go_on_from_a_journal(name: str, tmp_path: Path) -> None:
    journal = toy.ToyJournal()
    explore(type(OURS[name]())(seed=1, max_trials=12, journal=journal), tmp_path, mixed=True)
    state = journal.state
    assert state.baseline is not None and state.baseline.sample['op'] == 'keep'
    samples = [trial.sample for trial in state.operators]
    assert len(samples) == 12 == len({trial.id for trial in state.operators})
    seen = {label: {sample[label] for sample in samples} for label in samples[0]}
    assert seen['layer'] == {'0', '1'} and seen['depth'] == {'1', '2', '3'} and seen['width'] == {'4', '8'}
    assert seen['skip'] == {'[0]', '[1]'} and len(seen['op']) > 3
    # Whoever goes on knows what is done, and does the same as one that was not interrupted.
    further = type(OURS[name]())(seed=1, max_trials=14)
    further.restore(state)
    explore(further, tmp_path, mixed=True)
    whole = type(OURS[name]())(seed=1, max_trials=14)
    explore(whole, tmp_path, mixed=True)

    def ids(history: list[Outcome]) -> list[tuple[int, str]]:
        return [(outcome.candidate.number, outcome.candidate.id) for outcome in history]

    assert ids(further.history) == ids(whole.history) and len(whole.history) == 15


def test_constraints_of_the_space_are_kept() -> None:
    import numpy as np
    from nni.mutable import Categorical, ExpressionConstraint

    from syno_nni.nas.mutable import OperatorChoice
    from syno_nni.strategies.settings import Settings
    a, b = Categorical([1, 2, 3, 4], label='a'), Categorical([1, 2, 3, 4], label='b')
    settings = Settings({'op': OperatorChoice({'preset': 'toy'}, label='op'), 'a': a, 'b': b,
                         'c': ExpressionConstraint(a + b == 5, label='c')})
    drawn = [settings.decoded(settings.propose(np.random.default_rng(n), [])) for n in range(20)]
    assert {sample['a'] + sample['b'] for sample in drawn} == {5} and len({sample['a'] for sample in drawn}) > 2


def test_values_that_no_journal_can_hold_are_refused() -> None:
    from nni.mutable import Categorical

    from syno_nni.nas.mutable import OperatorChoice
    from syno_nni.strategies.settings import Settings
    settings = Settings({'op': OperatorChoice({'preset': 'toy'}, label='op'), 'layer': Categorical([sys, 1], label='layer')})
    with pytest.raises(SpaceError, match='layer: a journal cannot hold'):
        settings.default()
