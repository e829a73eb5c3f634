"""The library: what it measures is what it says, and what an operator gains is what the solver would make of it."""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from syno_nni.operator import Operator, classics
from syno_nni.run.records import PARSER, Scored
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.retrofit.library import KEEP, Library
from syno_nni.search_spaces.retrofit.output_change import OutputChange
from syno_nni.search_spaces.retrofit.retrofit import retrofit
from syno_nni.search_spaces.retrofit.time_saved import by_shape
from syno_nni.search_spaces.slots import Slot, find_slots

from ...testing.own_code import build, corners

IMAGES = torch.stack([corners(32, 5)[i][0] for i in range(32)])


class Times:
    """A millisecond for each thousand multiply-adds."""

    def layer_ms(self, module: Any, input_shape: Sequence[int]) -> float:
        if isinstance(module, FilledSlot):
            return module.macs / 1000
        positions = input_shape[2] * input_shape[3] / (module.stride[0] * module.stride[1])
        return module.weight.numel() * positions / 1000


class Timer:
    """What the cost model says, and a little more for every operator that was measured before."""
    original_ms = 1000.0

    def __init__(self, model: nn.Module, factor: float = 0.8) -> None:
        self.model, self.factor, self.asked = model, factor, 0

    def of(self, fillings: Sequence[tuple[Operator, Sequence[Slot]]]) -> list[float | None]:
        self.asked += len(fillings)
        return [self.factor * (_layer_ms(self.model, slots[0]) - Times().layer_ms(FilledSlot.of(op, slots[0]), ()))
                for op, slots in fillings]


def _layer_ms(model: nn.Module, slot: Slot) -> float:
    return slot.macs / 1000


@pytest.fixture(scope='module')
def library() -> Library:
    model = build().eval()
    slots, _ = find_slots(model, (1, 3, 16, 16), kinds=['conv3x3'])
    found = Library(model, slots, IMAGES, Timer(model), Times())
    found.score([e for op in _known() if (e := found.screen(op, 'known')) is not None])
    return found


def _known() -> list[Operator]:
    return [classics.grouped_conv2d(), classics.pointwise(), classics.depthwise_separable(), classics.conv2d()]


def test_what_is_faster_nowhere_goes_no_further(library: Library) -> None:
    assert classics.conv2d().id not in library.entries
    assert {classics.pointwise().id, classics.depthwise_separable().id} <= library.entries.keys()


def test_what_is_saved_was_measured(library: Library) -> None:
    entry = library.entries[classics.pointwise().id]
    slot = library.slots[1]
    shape = next(name for name, members in by_shape(library.slots).items() if slot in members)
    assert entry.saved_ms[shape] == pytest.approx(0.8 * entry.predicted_ms[slot.name])
    assert entry.saved_ms[shape] == pytest.approx(0.8 * slot.macs * (8 / 9) / 1000)


def test_the_change_of_the_output_is_that_of_the_model_with_the_operator(library: Library) -> None:
    """With scale and offset put into the operator's place, the definition by hand."""
    slot, op = library.slots[0], classics.pointwise()
    filled = library.filled(op.canonical, slot)
    model = build().eval()
    layer, seen = model.get_submodule(slot.name), []
    handle = layer.register_forward_hook(lambda m, x, y: seen.append((x[0], y)))
    with torch.no_grad():
        wanted = functional.log_softmax(model(IMAGES), 1)
    handle.remove()
    (x, y), = seen
    with torch.no_grad():
        z = filled(x)
        scale = torch.stack([torch.linalg.lstsq(torch.stack([z[:, c].reshape(-1), torch.ones(z[:, c].numel())], 1),
                                                y[:, c].reshape(-1)).solution for c in range(z.shape[1])])
        matched = z * scale[:, 0].view(1, -1, 1, 1) + scale[:, 1].view(1, -1, 1, 1)
        layer.register_forward_hook(lambda m, x, y: matched)
        got = functional.log_softmax(model(IMAGES), 1)
        expected = (wanted.exp() * (wanted - got)).sum(1).mean()
    assert OutputChange(build().eval(), IMAGES).of(slot.name, filled) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert library.entries[op.id].changes[slot.name] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_the_front_is_the_best_of_all_assignments(library: Library) -> None:
    options = library.options()
    every = [(sum(o.latency_ms for o in chosen), sum(o.loss for o in chosen))
             for chosen in itertools.product(*options.values())]
    front = library.front()
    for ms, loss in every:
        assert any(a.latency_ms <= ms + 1e-3 and a.loss <= loss + 1e-9 for a in front)
    fastest, original = front[0], front[-1]
    assert set(original.choices.values()) == {KEEP} and library.speedup(original) == pytest.approx(1.0)
    assert library.latency_ms(fastest) == pytest.approx(1000 - sum(
        max(o.latency_ms for o in own) - min(o.latency_ms for o in own) for own in options.values()), abs=1e-3)
    assert library.nearest(1.0).loss == 0.0
    assert library.nearest(1e9) == fastest


def test_a_sample_says_what_fills_every_slot(library: Library) -> None:
    sample = library.sample(library.front()[0])
    assert sample.keys() == {s.name for s in library.slots}
    result = retrofit(library.model, sample, slots=library.slots)
    assert result(IMAGES).shape == (32, 4)


def test_gain_is_positive_for_what_the_solver_takes(library: Library) -> None:
    """An operator that costs nothing and saves all is worth most; one that is dominated, nothing."""
    model = library.model
    poor = Library(model, library.slots, IMAGES, Timer(model), Times())
    poor.score([e for op in _known()[:1] if (e := poor.screen(op)) is not None])
    entry = poor.screen(classics.pointwise())
    assert entry is not None and not entry.changes
    free = type(entry)(entry.formula, dict.fromkeys(entry.errors, 0.0), predicted_ms=dict(entry.predicted_ms))
    useless = type(entry)(entry.formula, dict.fromkeys(entry.errors, 1.0), predicted_ms=dict.fromkeys(entry.predicted_ms, 1e-6))
    assert poor.gain(free) > 0 > poor.gain(useless)
    assert poor.gain(free) >= poor.gain(entry)


def test_it_goes_on_with_what_it_knew(library: Library) -> None:
    records = [PARSER.validate_json(PARSER.dump_json(e.record(7))) for e in library.entries.values()]
    assert all(isinstance(r, Scored) for r in records)
    timer = Timer(library.model)
    again = Library(library.model, library.slots, IMAGES, timer, Times(), known=records)  # type: ignore[arg-type]
    assert again.screened == 7 and timer.asked == 0
    assert [a.choices for a in again.front()] == [a.choices for a in library.front()]


def test_what_is_taken_is_measured_again_and_averaged(library: Library) -> None:
    model, kept = library.model, []
    own = Library(model, library.slots, IMAGES, Timer(model), Times(), keep=kept.append)
    own.score([e for op in _known() if (e := own.screen(op)) is not None])
    before = {op_id: dict(e.saved_ms) for op_id, e in own.entries.items()}
    assert len(kept) == len(own.entries)
    own.timer.factor = 0.4  # type: ignore[attr-defined]
    own.measure_again()
    changed = {op_id for op_id, e in own.entries.items() if e.saved_ms != before[op_id]}
    assert changed and len(kept) > len(own.entries)
    for op_id in changed:
        ratios = [ms / before[op_id][shape] for shape, ms in own.entries[op_id].saved_ms.items() if ms != before[op_id][shape]]
        assert ratios == pytest.approx([0.75] * len(ratios))


def test_an_operator_that_does_not_run_is_no_option() -> None:
    class Broken(Timer):
        def of(self, fillings: Sequence[tuple[Operator, Sequence[Slot]]]) -> list[float | None]:
            return [None] * len(fillings)

    model = build().eval()
    slots, _ = find_slots(model, (1, 3, 16, 16), kinds=['conv3x3'])
    found = Library(model, slots, IMAGES, Broken(model), Times())
    entry = found.screen(classics.pointwise())
    assert entry is not None
    found.score([entry])
    assert [len(own) for own in found.options().values()] == [1] * len(slots)
    assert found.front()[0].choices == dict.fromkeys((s.name for s in slots), KEEP)
