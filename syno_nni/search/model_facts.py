"""What a report says of a run's model beyond the journal: its slots, and how the best operators run in them."""
from __future__ import annotations

import logging

from syno_nni.errors import SynoError
from syno_nni.nas.original import make_model, model_source
from syno_nni.operator import Operator
from syno_nni.plan.optimize import plans
from syno_nni.run.config import SearchConfig
from syno_nni.run.report import ModelFacts, PlanFacts, SlotFacts
from syno_nni.run.report.data import formulas, top_operators
from syno_nni.run.state import RunState
from syno_nni.search_spaces.selection import Selection
from syno_nni.text import one_line

_log = logging.getLogger(__name__)


def model_facts(state: RunState) -> ModelFacts:
    """The facts of a run, found by making its model anew without trained weights.

    A report never fails for them: where the model cannot be made or has other slots now, they are missing, and a note
    says why.
    """
    try:
        slots = _slots(SearchConfig.from_dict(state.config))
    except Exception as error:  # whatever timm or the model raises
        _log.debug('no facts of the model', exc_info=True)
        return ModelFacts(note=f'The layers of the model are not listed: {one_line(error)[:300]}')
    found: dict[str, PlanFacts] = {}
    for trial in top_operators(state):
        for text, labels in formulas(trial).items():
            own = [slot for slot in slots if slot.label in labels]
            if own and text not in found and (plan := _plan(text, max(own, key=lambda slot: slot.macs))) is not None:
                found[text] = plan
    return ModelFacts(tuple(slots), None, found)


def _slots(config: SearchConfig) -> list[SlotFacts]:
    data = config.data
    if config.model.name.startswith(('hf-hub:', 'hf_hub:')):
        raise SynoError(f'{config.model.name} would have to be fetched')
    # No weights are fetched for a report, and those of a file are of no use to it.
    source = model_source(config, 0, weights=False)
    if 'name' in source:
        del source['arguments']['num_classes']
    model = make_model(source)
    selected = Selection.of_search(config).of(model, (1, data.channels, data.image_size, data.image_size))
    label = {slot.name: name for name, members in selected.groups.items() for slot in members}
    return [SlotFacts(slot.name, label[slot.name], slot.kind, _layer(slot.module_type, slot.kernel, slot.stride),
                      dict(slot.sizes), slot.macs, slot.params) for slot in selected.slots]


def _layer(kind: str, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
    """``Conv2d 3x3, stride 2``."""
    window = f' {"x".join(map(str, kernel))}' if kernel else ''
    return f'{kind}{window}' + (f', stride {max(stride)}' if any(s > 1 for s in stride) else '')


def _plan(formula: str, slot: SlotFacts) -> PlanFacts | None:
    try:
        op = Operator.parse(formula)
        plan = plans(op, {v: slot.sizes[v] for v in op.variables})[0]
    except (SynoError, KeyError):
        return None
    return PlanFacts(dict(slot.sizes), tuple(map(str, plan.program.steps)), plan.macs)
