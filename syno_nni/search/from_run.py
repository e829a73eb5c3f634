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
from syno_nni.search_spaces.backbone import wide_enough
from syno_nni.search_spaces.slots import Slot, find_slots, group_slots
from syno_nni.synthesis import Heuristics

LABEL = 'operator'
"""What :class:`~syno_nni.search_spaces.backbone.BackboneSpace` calls its choices, or begins their names with."""


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
        slots_config = self.config.slots
        slots, _ = find_slots(model, self.input_shape, kinds=slots_config.kinds, include=slots_config.include,
                              exclude=slots_config.exclude, min_share=slots_config.min_share,
                              coefficients=dict(self.config.space.variables))
        ratio = self.config.space.limits.get('window_ratio', Heuristics().window_ratio)
        slots, _ = wide_enough(slots, float(ratio))  # type: ignore[arg-type]
        mapping: dict[str, Operator | str] = {}
        for name, members in group_slots(slots, slots_config.group_by).items():
            label = LABEL if slots_config.group_by == 'model' else f'{LABEL}/{name}'
            text = self.sample.get(label, 'keep')
            mapping |= {s.name: text if text == 'keep' else Operator.parse(text) for s in members}
        return mapping, slots


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
