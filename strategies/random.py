"""Random search: independent samples of the space."""
from __future__ import annotations

import numpy as np

from syno_nni.run.candidate import Proposal

from .base import SynoStrategy


class SynoRandom(SynoStrategy):
    """Draws every choice independently; the yardstick of all other strategies."""

    def propose(self, rng: np.random.Generator) -> Proposal:
        return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
