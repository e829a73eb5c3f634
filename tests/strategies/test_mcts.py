"""Tree search: it finds what is good, spreads out, and its tree is a function of the history."""
from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syno_nni.errors import ConfigError
from syno_nni.operator import Operator
from syno_nni.run.candidate import Failure, Miss
from syno_nni.strategies import Candidate, Outcome, SynoMCTS, make_strategy
from syno_nni.strategies.mcts import ConstructionTree
from syno_nni.synthesis.space import OperatorSpace
from syno_nni.testing.toy import OPERATORS as TOY_OPERATORS
from syno_nni.testing.toy import toy_choices

from ..testing import toy

BINDING = {'N': 1, 'C_in': 16, 'C_out': 32, 'H': 16, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}


@pytest.fixture
def tree() -> ConstructionTree:
    return ConstructionTree(toy.ToySpace(), exploration=0.5, widening=0.6, trust=3.0)


def _value(formula: str) -> float:
    return float(list(toy.OPERATORS).index(Operator.parse(formula).id))


def test_it_learns_what_a_good_step_is(tree: ConstructionTree) -> None:
    found: list[float] = []
    for n in range(60):
        formula, path = tree.propose(np.random.default_rng(n), lambda formula: False)
        found.append(_value(formula))
        tree.learn(path, formula, found[-1])
    assert statistics.mean(found[40:]) > 1.4 * statistics.mean(range(9))


def test_proposing_changes_nothing(tree: ConstructionTree) -> None:
    for n in range(10):
        formula, path = tree.propose(np.random.default_rng(n), lambda formula: False)
        tree.learn(path, formula, _value(formula))
    before = {key: list(node.rewards) for key, node in tree.nodes.items()}
    proposals = [tree.propose(np.random.default_rng(7), lambda formula: False) for _ in range(3)]
    assert proposals[0] == proposals[1] == proposals[2]
    assert before == {key: node.rewards for key, node in tree.nodes.items()}


def test_what_is_in_flight_repels(tree: ConstructionTree) -> None:
    for formula in (str(op) for op in toy.OPERATORS.values()):
        tree.learn([], formula, 1.0)
    first = tree.propose(np.random.default_rng(0), lambda formula: False)[1]
    for _ in range(20):
        tree.expect(first, +1)
    second = tree.propose(np.random.default_rng(0), lambda formula: False)[1]
    assert first[0] != second[0]
    for _ in range(20):
        tree.expect(first, -1)
    assert tree.propose(np.random.default_rng(0), lambda formula: False)[1] == first


def test_only_what_is_new_is_proposed(tree: ConstructionTree) -> None:
    known: set[str] = set()
    for n in range(50):
        found = tree.propose(np.random.default_rng(n), known.__contains__)
        if found is not None:
            assert found[0] not in known
            known.add(found[0])
            tree.learn(found[1], found[0], 0.0)
    assert len(known) == 9
    assert tree.propose(np.random.default_rng(99), known.__contains__) is None


def test_a_path_that_does_not_fit_ends_early(tree: ConstructionTree) -> None:
    tree.learn([], next(str(op) for op in toy.OPERATORS.values()), 1.0)
    tree.expect([0, 99, 1], +1)
    assert [node.pending for node in tree.nodes.values()] == [1, 1, 0]


def test_an_evaluated_operator_joins_with_its_whole_construction(tree: ConstructionTree) -> None:
    tree.learn([], str(list(toy.OPERATORS.values())[5]), 1.0)
    assert set(tree.nodes) == {(), (1,), (1, 2)}
    tree.learn([0], str(list(toy.OPERATORS.values())[4]), 0.0)
    assert [len(tree.nodes[key].rewards) for key in ((), (1,), (1, 2), (1, 1))] == [2, 2, 1, 1], 'each node once'


def test_rewards_count_by_rank(tree: ConstructionTree) -> None:
    formulas = [str(op) for op in toy.OPERATORS.values()]
    other = ConstructionTree(toy.ToySpace(), exploration=0.5, widening=0.6, trust=3.0)
    for formula, reward in zip(formulas, (0.1, 0.5, -math.inf, 0.9)):
        tree.learn([], formula, reward)
        other.learn([], formula, -1e9 if reward == -math.inf else 1000 * reward)
    for n in range(5):
        assert tree.propose(np.random.default_rng(n), set().__contains__) == other.propose(
            np.random.default_rng(n), set().__contains__)


def test_a_neighbour_counts_for_the_node_it_branches_off_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Space(toy.ToySpace):
        def complete(self, state: Any, rng: np.random.Generator, thorough: bool = True) -> Operator:
            return self.operators[0]  # known: only neighbours are new

    tree = ConstructionTree(Space(), exploration=0.5, widening=0.6, trust=3.0, playouts=1, neighbours=4)
    formulas = [str(op) for op in toy.OPERATORS.values()]
    tree.learn([], formulas[0], 0.0)
    for index in (3, 4):  # their constructions share the first step
        tree.learn([], formulas[index], float(index))
    formula, path = tree.propose(np.random.default_rng(0), lambda f: f not in (formulas[5],))
    assert formula == formulas[5]
    assert tree._along(path)[-1].state.key == (1,), 'where the neighbour leaves the construction of 4'
    tree.expect(path, +1)
    assert tree.nodes[(1,)].pending == 1
    tree.expect(path, -1)
    before = len(tree.nodes[(1,)].rewards)
    tree.learn(path, formula, 5.0)
    assert len(tree.nodes[(1,)].rewards) == before + 1


def test_rejected_candidates_are_learned_from_by_how_far_they_missed() -> None:
    strategy = SynoMCTS(warm_up=2)
    strategy.begin(toy_choices())
    formulas = [str(op) for op in TOY_OPERATORS.values()]
    speedups = {2: 1.09, 20: 0.69}
    for number, (index, speedup) in enumerate(speedups.items(), 1):
        failure = Failure.rejection(Miss('', math.log2(1.2 / speedup)), 'latency', {'speedup': speedup})
        strategy.observe(Outcome.judge(Candidate(number, {'operator': formulas[index]}), failure.report()))
    strategy.observe(Outcome.failed(Candidate(3, {'operator': formulas[13]}), 'died', ''))
    tree = strategy.tree('operator')
    near, far, failed = (tree._ranks[r.worth] for r in tree._results)
    assert near > far > failed
    assert strategy.best.candidate.sample['operator'] == formulas[2], 'the nearest to the limit, while there is no result'
    strategy.observe(Outcome(Candidate(4, {'operator': formulas[7]}), {'default': -100.0}))
    assert strategy.best.candidate.number == 4, 'any result is better'


def test_bad_arguments() -> None:
    for arguments in ({'widening': 0}, {'widening': 1.5}, {'exploration': -1}, {'trust': float('nan')}, {'playouts': 0},
                      {'power': 0}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            make_strategy('mcts', **arguments)


# --- on a real operator space ----------------------------------------------------------------------------------------

def _search(n: int) -> list[dict[str, Any]]:
    """Proposals and their notes, with the number of weights as reward."""
    from syno_nni.nas.mutable import OperatorChoice
    strategy = SynoMCTS(warm_up=2)
    strategy.choices = {'op': OperatorChoice({'preset': 'conv2d', 'bindings': [BINDING]}, label='op')}
    proposals = []
    for number in range(1, n + 1):
        proposal = strategy.propose(np.random.default_rng((0, number)))
        candidate = Candidate(number, proposal.sample, proposal.note)
        strategy.expect(candidate)
        outcome = Outcome(candidate, {'default': float(len(Operator.parse(proposal.sample['op']).weights))})
        strategy.history.append(outcome)
        strategy.observe(outcome)
        proposals.append({'sample': dict(proposal.sample), 'note': dict(proposal.note)})
    return proposals


def test_proposals_are_of_the_space_and_their_notes_are_json() -> None:
    space = OperatorSpace.preset('conv2d', bindings=[BINDING])
    proposals = _search(5)
    assert json.loads(json.dumps(proposals)) == proposals
    for proposal in proposals:
        assert space.contains(Operator.parse(proposal['sample']['op']))
    assert any(p['note'] for p in proposals)


def test_the_same_everywhere() -> None:
    code = ('import json, sys; sys.path.insert(0, sys.argv[1]); import toy; '
            'source = open(sys.argv[2]).read().replace("from ..testing import toy", "import toy"); '
            'scope = {"__name__": "tests"}; exec(compile(source, "tests", "exec"), scope); '
            'print(json.dumps(scope["_search"](3)))')
    command = [sys.executable, '-c', code, Path(__file__).parents[1] / 'testing', __file__]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONHASHSEED': seed})
            for seed in ('1', '2')]
    outputs = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(outputs) == 1
