"""Tree search over the construction of operators (Syno, ASPLOS 2025, with statistics of Gelly & Silver's RAVE).

Every choice of the model space has a tree: nodes are partial operators, edges construction steps. A proposal descends
by UCT; a node's steps are revealed one by one as it is visited more (progressive widening), the most promising first
by what evaluated operators that contain such a step were worth; from the first new node on, the space completes the
operator at random. Candidates in flight count as visits without reward (virtual loss), so that several proposals at
once spread out.

All statistics are functions of the history: a proposal changes none, and its path through the tree is noted in the
journal. So a resumed search has the tree of an uninterrupted one.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from syno_nni.errors import ConfigError
from syno_nni.nas.mutable import KEEP
from syno_nni.operator import Operator

from .base import SynoStrategy
from .outcome import Candidate, Outcome, Proposal

_TRIES = 40
# Descents per proposal: some end in an operator that is known already, or in none.


@dataclass
class Mean:
    """A running mean."""
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass
class Node:
    """A partial operator. ``reward`` averages the results below it; ``steps`` those of operators below it by the
    label of each construction step they contain; ``pending`` counts candidates in flight below it."""
    state: Any
    reward: Mean = field(default_factory=Mean)
    steps: dict[str, Mean] = field(default_factory=dict)
    pending: int = 0

    @property
    def visits(self) -> int:
        return self.reward.count + self.pending


class ConstructionTree:
    """The tree of one choice.

    Args:
        space: the operator space.
        exploration: weight of UCT's exploration term; rewards are scaled to 0..1.
        widening: a node visited n times reveals ``n ** widening`` steps.
        trust: number of results below a node at which its own statistics of steps weigh as much as the whole tree's.
    """

    def __init__(self, space: Any, exploration: float, widening: float, trust: float) -> None:
        self.space = space
        self.exploration, self.widening, self.trust = exploration, widening, trust
        self.nodes: dict[Any, Node] = {}
        self.root = self._node(space.root)
        self._steps: dict[Any, list[tuple[str, Any]]] = {}
        self._low, self._high = math.inf, -math.inf

    # --- proposing: changes no statistics ----------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator, known: Callable[[str], bool]) -> tuple[str, list[int]] | None:
        """A new formula and the path to the node from which it was completed; None if none was found."""
        dead: set[Any] = set()
        for _ in range(_TRIES):
            if self.root.state.key in dead:
                return None
            path, state = self._descend(rng, dead)
            if state is None:
                continue
            op = self.space.finish(state) if state.is_final else self.space.complete(state, rng, thorough=False)
            if op is not None and not known(str(op)):
                return str(op), path
            dead.add(state.key)
        return None

    def _descend(self, rng: np.random.Generator, dead: set[Any]) -> tuple[list[int], Any]:
        """Follow the tree to its first new node; None in its place if there is no way on from where it got."""
        node, path = self.root, []
        while True:
            index = self._choose(node, rng, dead)
            if index is None:
                dead.add(node.state.key)
                return path, None
            path.append(index)
            state = self.steps(node)[index][1]
            if state.is_final or state.key not in self.nodes or not self.nodes[state.key].visits:
                return path, state
            node = self.nodes[state.key]

    def _choose(self, node: Node, rng: np.random.Generator, dead: set[Any]) -> int | None:
        revealed, hidden = [], []
        steps = self.steps(node)
        for index, (_, state) in enumerate(steps):
            if state.key not in dead:
                seen = state.key in self.nodes and self.nodes[state.key].visits
                (revealed if seen else hidden).append(index)
        if hidden and (not revealed or len(revealed) < (node.visits + 1) ** self.widening):
            promise = self._promise(node, [steps[i][0] for i in hidden])
            return hidden[int(np.argmax(0.7 * promise + 0.3 * rng.random(len(hidden))))]
        if not revealed:
            return None
        return max(revealed, key=lambda i: self._uct(node, self.nodes[steps[i][1].key]))

    def _promise(self, node: Node, labels: Sequence[str]) -> np.ndarray:
        """What operators with such a step were worth, 0..1: below this node, blended with the whole tree."""
        def means(steps: dict[str, Mean]) -> np.ndarray:
            known = [self._scale(steps[label].value) if label in steps else math.nan for label in labels]
            seen = [value for value in known if not math.isnan(value)]
            return np.nan_to_num(np.array(known), nan=float(np.mean(seen)) if seen else 0.5)

        everywhere = self.trust / (self.trust + node.reward.count)
        return everywhere * means(self.root.steps) + (1 - everywhere) * means(node.steps)

    def _uct(self, parent: Node, child: Node) -> float:
        gained = child.reward.count * self._scale(child.reward.value) if child.reward.count else 0.0
        return gained / child.visits + self.exploration * math.sqrt(math.log(parent.visits + 1) / child.visits)

    def _scale(self, reward: float) -> float:
        span = self._high - self._low
        return (reward - self._low) / span if span > 0 else 0.5

    # --- learning ----------------------------------------------------------------------------------------------------

    def expect(self, path: Iterable[int], change: int) -> None:
        """Count a candidate below ``path`` as in flight (``change`` +1), or no longer (-1)."""
        for node in self._along(path):
            node.pending += change

    def learn(self, path: Iterable[int], formula: str, reward: float) -> None:
        """Take in the reward of the operator that was completed at the end of ``path``."""
        self._low, self._high = min(self._low, reward), max(self._high, reward)
        labels = {action.label for action in self.space.path(Operator.parse(formula))}
        for node in self._along(path):
            node.reward.add(reward)
            for label in labels:
                node.steps.setdefault(label, Mean()).add(reward)

    @property
    def worst(self) -> float:
        """The lowest reward so far; what a failure counts as."""
        return self._low if math.isfinite(self._low) else 0.0

    def steps(self, node: Node) -> list[tuple[str, Any]]:
        """The construction steps from a node, in a fixed order: their labels, and the states they lead to."""
        key = node.state.key
        if key not in self._steps:
            self._steps[key] = [(action.label, self.space.step(node.state, action))
                                for action in self.space.actions(node.state)]
        return self._steps[key]

    def _along(self, path: Iterable[int]) -> list[Node]:
        """The nodes on a path, made where there were none. A path that another version wrote ends where it fits no
        more."""
        found = [self.root]
        for index in path:
            steps = self.steps(found[-1])
            if not 0 <= index < len(steps):
                break
            found.append(self._node(steps[index][1]))
        return found

    def _node(self, state: Any) -> Node:
        return self.nodes.setdefault(state.key, Node(state))


class SynoMCTS(SynoStrategy):
    """Monte-Carlo tree search; see the module. With several choices, one of them changes at a time, from the best
    sample so far.

    Args:
        exploration: weight of UCT's exploration term, relative to the range of rewards seen.
        widening: a node visited n times reveals ``n ** widening`` steps; between 0 and 1.
        trust: see :class:`ConstructionTree`.
        warm_up: how many random samples come before the tree decides.
        arguments: of :class:`~.base.SynoStrategy`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, *, exploration: float = 0.5, widening: float = 0.6, trust: float = 3.0, warm_up: int = 4,
                 **arguments: Any) -> None:
        super().__init__(**arguments)
        for name, value in (('exploration', exploration), ('trust', trust), ('warm_up', warm_up)):
            if not value >= 0:
                raise ConfigError(f'{name} must not be negative, got {value!r}')
        if not 0 < widening <= 1:
            raise ConfigError(f'widening must be above 0 and at most 1, got {widening!r}')
        self.exploration, self.widening, self.trust, self.warm_up = exploration, widening, trust, warm_up
        self.best: Outcome | None = None
        self._trees: dict[str, ConstructionTree] = {}

    def tree(self, label: str) -> ConstructionTree:
        """The tree of a choice."""
        if label not in self._trees:
            self._trees[label] = ConstructionTree(self.choices[label].space, self.exploration, self.widening,
                                                  self.trust)
        return self._trees[label]

    def propose(self, rng: np.random.Generator) -> Proposal:
        if self.best is None or len(self.history) <= self.warm_up:
            return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
        label = list(self.choices)[int(rng.integers(len(self.choices)))]
        others = dict(self.best.candidate.sample)
        if rng.random() < self.choices[label].keep:
            return Proposal({**others, label: KEEP})
        found = self.tree(label).propose(rng, lambda formula: self.is_known({**others, label: formula}))
        if found is None:
            return Proposal({**others, label: self.choices[label].draw(rng)})
        formula, path = found
        return Proposal({**others, label: formula}, {'paths': {label: path}})

    def expect(self, candidate: Candidate) -> None:
        for label, path in self._paths(candidate).items():
            self.tree(label).expect(path, +1)

    def observe(self, outcome: Outcome) -> None:
        sample, paths = outcome.candidate.sample, self._paths(outcome.candidate)
        for label, formula in sample.items():
            tree = self.tree(label)
            if label in paths:
                tree.expect(paths[label], -1)
            if formula != KEEP:
                reward = tree.worst if outcome.reward is None else outcome.reward
                tree.learn(paths.get(label, ()), formula, reward)
        if outcome.reward is not None and (self.best is None or outcome.reward > self.best.reward):
            self.best = outcome

    def _paths(self, candidate: Candidate) -> dict[str, list[int]]:
        paths = candidate.note.get('paths', {})
        return {label: path for label, path in paths.items() if label in self.choices}
