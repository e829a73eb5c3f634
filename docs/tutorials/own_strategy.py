"""A strategy of one's own: hill climbing, checked by the conformance suite, and at work on a toy landscape."""
import numpy as np

from syno_nni import Operator
from syno_nni.run.candidate import KEEP, Outcome, Proposal
from syno_nni.strategies import SynoStrategy
from syno_nni.testing.strategies import STRATEGY_CHECKS, ToyJournal, search


# --8<-- [start:strategy]
class HillClimbing(SynoStrategy):
    """Edits the best operator so far in one place; begins with random ones."""

    def __init__(self, *, warm_up: int = 4, **arguments) -> None:
        super().__init__(**arguments)
        self.warm_up = warm_up
        self.best: Outcome | None = None
        self.seen = 0

    def observe(self, outcome: Outcome) -> None:
        self.seen += 1
        if self.best is None or outcome.worth > self.best.worth:     # any result is worth more than a rejection
            self.best = outcome

    def propose(self, rng: np.random.Generator) -> Proposal:
        if self.best is None or self.seen < self.warm_up or rng.random() < 0.2:
            return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
        sample = dict(self.best.candidate.sample)
        label = str(rng.choice(sorted(sample)))
        space = self.choices[label].space
        if sample[label] != KEEP:                                    # the layer of the original has no neighbours
            return Proposal({**sample, label: str(space.mutate(Operator.parse(sample[label]), rng))})
        return Proposal({**sample, label: str(space.sample(rng))})
# --8<-- [end:strategy]


# --8<-- [start:check]
for check in STRATEGY_CHECKS:
    check(HillClimbing)
print(f'passes all {len(STRATEGY_CHECKS)} checks')
# --8<-- [end:check]

# --8<-- [start:run]
journal = ToyJournal()
strategy, _ = search(HillClimbing, journal, max_trials=12, seed=1)
for trial in journal.state.operators[:12:3]:
    print(f'{trial.number:2d}  {trial.metrics["default"]:.0f}  {trial.formula[:60]}')
print('best:', max(trial.metrics['default'] for trial in journal.state.operators))
# --8<-- [end:run]
