"""A search's result as a retrofit: which model, which slots, which operators, and what the journal knows of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from syno_nni.errors import ZooError
from syno_nni.operator import Operator
from syno_nni.run.candidate import BASELINE
from syno_nni.run.config import SearchConfig
from syno_nni.run.directory import load_run
from syno_nni.run.state import RunState, Trial
from syno_nni.search_spaces.selection import Selection
from syno_nni.search_spaces.slots import Slot


@dataclass(frozen=True)
class RunChoice:
    """A candidate of a run. ``provenance`` holds JSON-able facts for a model card."""
    config: SearchConfig
    sample: Mapping[str, str]
    provenance: dict[str, Any]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width)"""
        data = self.config.data
        return 1, data.channels, data.image_size, data.image_size

    def fillings(self, model: nn.Module) -> tuple[dict[str, Operator | str], list[Slot]]:
        """What fills the slots of ``model`` (the run's), and these slots, found as the search found them."""
        selected = Selection.of_search(self.config).of(model, self.input_shape)
        return selected.fillings(self.sample), selected.slots


def choice_of_run(run_dir: Path, candidate_id: str = '') -> RunChoice:
    """The best candidate of a run, or the one whose id begins with ``candidate_id``.

    Raises:
        JournalError: the directory holds no run.
        ZooError: the run has no such candidate, or none that succeeded.
    """
    state = load_run(run_dir)
    candidate = _candidate(state, run_dir, candidate_id)
    baseline = state.baseline
    provenance = {
        'run': run_dir.name, 'candidate': candidate.id, 'metrics': dict(candidate.metrics),
        'test_metrics': dict(candidate.test_metrics), 'environment': state.environment,
        'baseline_metrics': dict(baseline.metrics) if baseline else {},
        'baseline_test_metrics': dict(baseline.test_metrics) if baseline else {}, 'experiment': state.config}
    return RunChoice(SearchConfig.from_dict(state.config, str(run_dir)), dict(candidate.sample), provenance)


def _candidate(state: RunState, run_dir: Path, wanted: str) -> Trial:
    if not wanted:
        if state.best is None:
            raise ZooError(f'{run_dir}: no operator was evaluated successfully; continue with: syno-nni resume {run_dir}')
        return state.best
    found = [c for c in state.operators if c.id.startswith(wanted) and c.id != BASELINE]
    if len(found) != 1:
        known = ', '.join(c.id for c in state.front[:5])
        raise ZooError(f'{run_dir}: {len(found)} candidates have an id that begins with {wanted!r:.40}; the best are {known}')
    return found[0]
