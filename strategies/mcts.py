"""Tree search over the construction of operators (Syno, ASPLOS 2025), with RAVE statistics (Gelly and Silver, "Monte-Carlo
tree search and rapid action value estimation in computer Go", 2011; GRAVE: Cazenave, IJCAI 2015).

Every choice of the model space has a tree: nodes are partial operators, edges construction steps.

- *Selection* descends by UCT. The worth of a step blends the results below it with those of all operators that contain
  a step of the same label (RAVE), taken from this node or, while it has few, from the whole tree (GRAVE).
- *Progressive widening*: a node visited n times has ``n ** widening`` children before the descent goes on to them.
- *Expansion*: an evaluated operator joins the tree with its whole construction, so that the search can soon branch off
  anywhere along the best ones. With a tree grown by one node at a time, a hundred evaluations would not get beyond
  the first steps.
- *Simulation*: where the descent ends, the space completes the partial operator at random a few times; as many completions
  start a few steps before the end of the best operators so far. The one whose steps promise most is proposed (see
  :mod:`.regression`). A completion costs milliseconds, an evaluation minutes.
- *Virtual loss*: candidates in flight count as visits without reward, so that several proposals at once spread out.

Results count by their rank among all: neither their scale nor a few terrible operators matter. What was rejected ranks
below every result, and by how far it missed the limit; what failed ranks last. A neighbour of a good operator counts for
the node it branches off from, as a completion does for its own.

All statistics are functions of the history: a proposal changes none, and its path through the tree is noted in the
journal. So a resumed search has the tree of an uninterrupted one.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from syno_nni.errors import ConfigError
from syno_nni.operator import Operator
from syno_nni.run.candidate import KEEP, Candidate, Outcome, Proposal

from .arguments import Above0, AtLeast0, AtLeastOne, CountFrom0, Share
from .base import SynoStrategy
from .regression import PrimitiveRegression, Step, Steps, construction, ranks, steps

_TRIES = 40
# Descents per proposal: some end in an operator that is known already, or in none.
_PARENTS = 5
# How many of the best operators neighbours are made of.


class Result(NamedTuple):
    """An operator that was evaluated, with its construction steps; ``worth`` orders it among others."""
    operator: Operator
    steps: list[Step]
    worth: Any


@dataclass
class Node:
    """A partial operator. ``children``: the nodes one step on, by the step's label and their state's key. ``rewards``
    are those of the results below it; ``steps`` those of operators below it by the label of each construction step that they
    contain; ``pending`` counts candidates in flight below it; ``ways`` is the number of steps from here, once known."""
    state: Any
    children: dict[tuple[str, Any], Node] = field(default_factory=dict)
    rewards: list[Any] = field(default_factory=list)
    steps: dict[str, list[Any]] = field(default_factory=dict)
    pending: int = 0
    ways: int | None = None

    @property
    def visits(self) -> int:
        return len(self.rewards) + self.pending


class ConstructionTree:
    """The tree of one choice.

    Args:
        space: the operator space.
        exploration: weight of UCT's exploration term; rewards are ranks, 0 to 1.
        widening: a node visited n times gets ``n ** widening`` children.
        trust: number of results at which a node's own statistics weigh as much as more general ones.
        playouts: completions to choose from.
        neighbours: operators near the best ones, to choose from beside them.
        power: ranks are raised to it; the larger, the more the best count.
        curiosity: weight of the uncertainty of what a choice promises.
    """

    def __init__(self, space: Any, *, exploration: float, widening: float, trust: float, playouts: int = 1,
                 neighbours: int = 0, power: float = 1.0, curiosity: float = 0.1) -> None:
        self.space = space
        self.exploration, self.widening, self.trust = exploration, widening, trust
        self.playouts, self.power, self.curiosity = playouts, power, curiosity
        self.neighbours = neighbours
        self.nodes: dict[Any, Node] = {}
        self.root = self._node(space.root)
        self._results: list[Result] = []
        self._regression: PrimitiveRegression | None = None
        self._ranks: dict[Any, float] = {}

    # --- proposing: changes no statistics ----------------------------------------------------------------------------

    def propose(self, rng: np.random.Generator, known: Callable[[str], bool]) -> tuple[str, list[int]] | None:
        """A new formula and the path to the node from which it was built; None if none was found."""
        spent: set[int] = set()
        for _ in range(_TRIES):
            path = self._descend(spent)
            if path is None:
                return None
            found = self._simulate(path, rng, known)
            if found is not None:
                return found
            spent.add(id(self._along(path)[-1]))
        return None

    def _simulate(self, path: list[int], rng: np.random.Generator,
                  known: Callable[[str], bool]) -> tuple[str, list[int]] | None:
        """The most promising of some new operators, completions of a node and neighbours of the best, and the path to
        where it branches off."""
        found: dict[str, tuple[list[Step], list[int]]] = {}
        for op, origin in self._simulations(path, rng):
            if str(op) not in found and not known(str(op)):
                found[str(op)] = steps(self.space, op), origin
        if not found:
            return None
        choice = list(found)[self._most_promising([done for done, _ in found.values()])]
        return choice, found[choice][1]

    def _simulations(self, path: list[int], rng: np.random.Generator) -> Iterator[tuple[Operator, list[int]]]:
        state = self._along(path)[-1].state
        for n in range(self.playouts):
            op = self.space.complete(state, rng, thorough=False)
            if op is not None:
                yield op, path
            elif not n:
                return  # the state seems to lead nowhere: the descent goes on elsewhere
        best = sorted((r for r in self._results if r.steps), key=lambda r: r.worth, reverse=True)[:_PARENTS]
        for _ in range(self.neighbours if best else 0):
            parent = best[int(rng.integers(len(best)))].operator
            op, kept = self.space.neighbour(parent, rng)
            yield op, self._path_of(parent, kept)

    def _path_of(self, op: Operator, length: int) -> list[int]:
        """The path along the first steps of an operator's construction, as far as the tree has it."""
        path, node, state = [], self.root, self.space.root
        for action in construction(self.space, op)[:length]:
            state = self.space.step(state, action)
            places = {key: place for place, key in enumerate(node.children)}
            if (action.label, state.key) not in places:
                break
            path.append(places[action.label, state.key])
            node = node.children[action.label, state.key]
        return path

    def _most_promising(self, operators: Sequence[Steps]) -> int:
        if not self._results:
            return 0
        if self._regression is None:
            self._regression = PrimitiveRegression()
            self._regression.fit([r.steps for r in self._results], [self._ranks[r.worth] for r in self._results])
        expected, uncertain = self._regression.predict(operators)
        return int(np.argmax(expected + self.curiosity * uncertain))

    def _descend(self, spent: set[int]) -> list[int] | None:
        """The path to the node to branch off from; None when all are ``spent``, that is, have led to nothing new."""
        node, path = self.root, []
        while True:
            open_ = [(i, label, child) for i, ((label, _), child) in enumerate(node.children.items())
                     if not self._is_spent(child, spent)]
            if id(node) not in spent and (not open_ or self._is_narrow(node)):
                return path
            if not open_:
                return None
            promise = self._promise(node, [label for _, label, _ in open_])
            worth = [self._uct(node, child, p) for (_, _, child), p in zip(open_, promise)]
            index, _, node = open_[int(np.argmax(worth))]
            path.append(index)

    def _is_narrow(self, node: Node) -> bool:
        """Whether a node shall have more children, and can."""
        if len(node.children) >= (node.visits + 1) ** self.widening:
            return False
        if node.ways is None:
            node.ways = len(self.space.actions(node.state))
        return len(node.children) < node.ways

    def _is_spent(self, node: Node, spent: set[int]) -> bool:
        return id(node) in spent and all(self._is_spent(child, spent) for child in node.children.values())

    def _promise(self, node: Node, labels: Sequence[str]) -> np.ndarray:
        """What operators with such a step were worth, 0..1: below this node, blended with the whole tree."""
        def means(steps: dict[str, list[Any]]) -> np.ndarray:
            return np.array([self._mean(steps.get(label, ())) for label in labels])

        everywhere = self.trust / (self.trust + len(node.rewards)) if self.trust else 0.0
        return everywhere * means(self.root.steps) + (1 - everywhere) * means(node.steps)

    def _uct(self, parent: Node, child: Node, promise: float) -> float:
        visits = max(child.visits, 1)
        worth = (self._sum(child.rewards) + self.trust * promise) / (visits + self.trust)
        return worth + self.exploration * math.sqrt(math.log(parent.visits + 1) / visits)

    def _sum(self, worths: Iterable[Any]) -> float:
        return sum(self._ranks[worth] for worth in worths)

    def _mean(self, worths: Sequence[Any]) -> float:
        return self._sum(worths) / len(worths) if worths else 0.5

    # --- learning ----------------------------------------------------------------------------------------------------

    def expect(self, path: Iterable[int], change: int) -> None:
        """Count a candidate below ``path`` as in flight (``change`` +1), or no longer (-1)."""
        for node in self._along(path):
            node.pending += change

    def learn(self, path: Iterable[int], formula: str, worth: Any) -> None:
        """Take in what the operator that was built from the end of ``path`` is worth: anything that orders it among all
        others, such as a :class:`~syno_nni.run.candidate.Worth`."""
        op = Operator.parse(formula)
        done = steps(self.space, op)
        self._results.append(Result(op, done, worth))
        self._regression = None
        worths = [r.worth for r in self._results]
        self._ranks = {w: rank ** self.power for w, rank in zip(worths, ranks(worths))}
        for node in {id(node): node for node in (*self._along(path), *self._construction(op))}.values():
            node.rewards.append(worth)
            for label in {step.label for step in done}:
                node.steps.setdefault(label, []).append(worth)

    def _along(self, path: Iterable[int]) -> list[Node]:
        """The nodes on a path. One that another version wrote ends where it fits no more."""
        found = [self.root]
        for index in path:
            children = list(found[-1].children.values())
            if not 0 <= index < len(children):
                break
            found.append(children[index])
        return found

    def _construction(self, op: Operator) -> list[Node]:
        """The nodes on the canonical way to an operator, made where there were none, but for the final one."""
        # The state is carried along: that of a node may be equal but for the names of what it holds.
        found, state = [self.root], self.space.root
        for action in construction(self.space, op):
            state = self.space.step(state, action)
            if state.is_final:
                break
            found.append(found[-1].children.setdefault((action.label, state.key), self._node(state)))
        return found

    def _node(self, state: Any) -> Node:
        return self.nodes.setdefault(state.key, Node(state))


class SynoMCTS(SynoStrategy):
    """Monte-Carlo tree search; see the module. With several choices, one of them changes at a time, from the best
    sample so far.

    Args:
        exploration: weight of UCT's exploration term; rewards are ranks between 0 and 1.
        widening: a node visited n times gets ``n ** widening`` children; between 0 and 1.
        trust, playouts, neighbours, power, curiosity: see :class:`ConstructionTree`.
        warm_up: how many random samples come before the tree decides.
        arguments: of :class:`~.base.SynoStrategy`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, *, exploration: AtLeast0 = 0.3, widening: Annotated[Share, Field(gt=0)] = 0.5, trust: AtLeast0 = 3.0,
                 playouts: AtLeastOne = 16, neighbours: CountFrom0 = 16, power: Above0 = 2.0, curiosity: AtLeast0 = 0.1,
                 warm_up: CountFrom0 = 6, **arguments: Any) -> None:
        super().__init__(**arguments)
        for name, value in (('exploration', exploration), ('trust', trust), ('curiosity', curiosity), ('warm_up', warm_up)):
            if not value >= 0:
                raise ConfigError(f'{name} must not be negative, got {value!r}')
        if not 0 < widening <= 1:
            raise ConfigError(f'widening must be above 0 and at most 1, got {widening!r}')
        if not isinstance(playouts, int) or playouts < 1:
            raise ConfigError(f'playouts must be a whole number of at least 1, got {playouts!r}')
        if not isinstance(neighbours, int) or neighbours < 0:
            raise ConfigError(f'neighbours must be a whole number of at least 0, got {neighbours!r}')
        if not power > 0:
            raise ConfigError(f'power must be above 0, got {power!r}')
        self.settings = {'exploration': exploration, 'widening': widening, 'trust': trust, 'playouts': playouts,
                         'neighbours': neighbours, 'power': power, 'curiosity': curiosity}
        self.warm_up = warm_up
        self.best: Outcome | None = None
        """The best result; while there is none, what was rejected by the smallest margin."""
        self._trees: dict[str, ConstructionTree] = {}

    def tree(self, label: str) -> ConstructionTree:
        """The tree of a choice."""
        if label not in self._trees:
            self._trees[label] = ConstructionTree(self.choices[label].space, **self.settings)
        return self._trees[label]

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if self.best is None or sum(not o.candidate.is_baseline for o in self.history) < self.warm_up:
            return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
        label = list(self.choices)[int(rng.integers(len(self.choices)))]
        others = dict(self.best.candidate.sample)
        if rng.random() < self.choices[label].keep:
            return Proposal({**others, label: KEEP})
        found = self.tree(label).propose(rng, lambda formula: self.is_known({**others, label: formula}))
        if found is None:
            drawn = ({**others, label: self.choices[label].draw(rng)} for _ in range(self.patience))
            return next((Proposal(sample) for sample in drawn if not self.is_known(sample)), None)
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
                tree.learn(paths.get(label, ()), formula, outcome.worth)
        if outcome.worth.tier and (self.best is None or outcome.worth > self.best.worth):
            self.best = outcome

    def _paths(self, candidate: Candidate) -> dict[str, list[int]]:
        paths = candidate.note.get('paths', {})
        return {label: path for label, path in paths.items() if label in self.choices}
