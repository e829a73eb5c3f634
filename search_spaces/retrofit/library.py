"""The library of a search by retrofit: operators, what each costs and saves in every slot, and the models made of them.

The pattern is that of LANA (Molchanov et al., "LANA: Latency Aware Network Acceleration", ECCV 2022) and Puzzle (Bercovich et
al., ICML 2025), *library, score, solve, heal*, but for the pool, which is not fixed: whoever synthesizes operators asks here
what one would gain. An operator is looked at in three steps, each some ten times as dear as the one before:

=========  ==============================================================================================================
predicted  the time that it takes in every slot, by the cost model; an operator that is faster nowhere goes no further
fitted     the relative error that the best weights leave, without data (:class:`~.kernel_fit.KernelFits`)
scored     in the slots where a model would take it: the change of the output (:class:`~.output_change.OutputChange`), and
           the time that it saves in the running model (:class:`~.time_saved.TimeSaved`)
=========  ==============================================================================================================

What an operator gains is told by the solver: at several prices of a millisecond, by how much it makes the best model cheaper.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from syno_nni.errors import SynoError
from syno_nni.operator import Operator
from syno_nni.plan.sketch import sketching
from syno_nni.run.records import Scored
from syno_nni.search_spaces.coefficients import fitting
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.replace import take_over
from syno_nni.search_spaces.slots import Slot

from .kernel_fit import KernelFits
from .knapsack import KEEP, Assignment, Option, pareto
from .output_change import OutputChange
from .time_saved import TimeSaved, by_shape

PRICES = (0.15, 0.3, 0.5, 0.7, 0.85)
"""Where on the front, from the original to the fastest model, a millisecond is priced."""
DOUBT = 1.25
"""To the solver, what is predicted is so much worse than what was measured. Whether to measure it is asked without doubt."""
_AGAIN = 40
_NEARLY = 1.5
# Operators whose price is predicted to be so many times the best one's are measured, too.
_LEAST_SAVED = 0.02
"""An operator must save this part of the time of the layer to be an option."""


class Times(Protocol):
    """Predicts latencies: a :class:`~syno_nni.measure.cost_model.CostModel`."""

    def layer_ms(self, module: nn.Module, input_shape: Sequence[int]) -> float: ...


@dataclass
class Entry:
    """What is known of an operator, by slot name and, for what is saved, by shape of slots.

    Attributes:
        formula: the operator.
        errors: relative squared error that its best weights leave, without data.
        changes: of the output with this slot alone replaced, in nats per image; measured.
        predicted_ms: that a slot saves, predicted.
        saved_ms: that a slot saves, measured in the running model.
        origin: who proposed it.
    """
    formula: str
    errors: dict[str, float]
    changes: dict[str, float] = field(default_factory=dict)
    predicted_ms: dict[str, float] = field(default_factory=dict)
    saved_ms: dict[str, float] = field(default_factory=dict)
    origin: str = ''

    @classmethod
    def of_record(cls, record: Scored) -> Entry:
        """What a journal holds."""
        return cls(record.formula, dict(record.errors), dict(record.changes), dict(record.predicted_ms), dict(record.saved_ms),
                   record.origin)

    def record(self, screened: int = 0) -> Scored:
        """The journal record, made when so many operators had been looked at."""
        def rounded(numbers: dict[str, float]) -> dict[str, float]:
            return {name: float(f'{value:.6g}') for name, value in numbers.items()}

        return Scored(formula=self.formula, origin=self.origin, screened=screened, errors=rounded(self.errors),
                      changes=rounded(self.changes), predicted_ms=rounded(self.predicted_ms), saved_ms=rounded(self.saved_ms))


@dataclass(frozen=True)
class _Solution:
    """What the solver makes of the options: ``most`` is what each slot can save at best (ms), ``cheapest`` the least sum of
    loss and priced time of each slot, by price (nats per ms)."""
    options: dict[str, list[Option]]
    front: list[Assignment]
    most: dict[str, float]
    cheapest: dict[float, dict[str, float]]


class Library:
    """The operators that a search by retrofit knows.

    Args:
        model: the original, with its trained weights; left as it is.
        slots: that operators may fill.
        images: to see the change of the output on, [images, channels, height, width].
        timer: measures what is saved.
        times: predicts it.
        known: what an earlier session of the search found.
        keep: gets the record of every new entry, before anything depends on it.
        seed: of the fits.
    """

    def __init__(self, model: nn.Module, slots: Sequence[Slot], images: Tensor, timer: TimeSaved, times: Times, *,
                 known: Iterable[Scored] = (), keep: Callable[[Scored], None] | None = None, seed: int = 0) -> None:
        self.model, self.slots = model.eval(), list(slots)
        self.timer, self.times = timer, times
        self.fits = KernelFits(model, slots, seed=seed)
        self.output = OutputChange(model, images)
        self.shapes = by_shape(slots)
        self.shape_of = {slot.name: shape for shape, members in self.shapes.items() for slot in members}
        self.entries: dict[str, Entry] = {}
        """By operator id, those that were scored."""
        self.screened = 0
        """How many operators were looked at."""
        self._sensitivity: dict[str, float] = {}
        self._bias: dict[str, float] = {}
        self._solved: _Solution | None = None
        self._layer_ms = {slot.name: self._predict(model.get_submodule(slot.name), slot) for slot in self.slots}
        self._keep = keep
        for record in known:
            self._take(Operator.parse(record.formula), Entry.of_record(record))
            self.screened = max(self.screened, record.screened)

    @property
    def original_ms(self) -> float:
        """Latency of the original, which all milliseconds here are parts of."""
        return self.timer.original_ms

    # --- one operator ------------------------------------------------------------------------------------------------

    def screen(self, op: Operator, origin: str = '') -> Entry | None:
        """Predict and fit an operator; None where it fits nowhere or is faster nowhere."""
        self.screened += 1
        op = op.canonical  # whose weights are in the order of its formula
        known = self.entries.get(op.id)
        if known is not None:
            return known
        saved = {slot.name: ms for members in self.shapes.values() if (ms := self._saves(op, members[0])) is not None
                 for slot in members}
        worth_while = [s for s in self.slots if saved.get(s.name, 0.0) > _LEAST_SAVED * self._layer_ms[s.name]]
        if not worth_while:
            return None
        errors = self.fits.errors(op, worth_while)
        errors = {name: error for name, error in errors.items() if math.isfinite(error)}
        return Entry(str(op), errors, predicted_ms={n: saved[n] for n in errors}, origin=origin) if errors else None

    def gain(self, entry: Entry) -> float:
        """By how much the operator makes the best models better: the mean over :data:`PRICES` of the part that it saves of
        loss and priced time, 0 and more. Where nothing, a negative number, the nearer to 0 the less it falls short."""
        gained, missed = 0.0, -math.inf
        solution = self._solution()
        for price, best in solution.cheapest.items():
            total = sum(best.values())
            margins = [best[name] - self._change(entry, name, 1.0) - price * (
                           solution.most[name] - self._saved(entry, name, 1.0)) for name in entry.errors]
            gained += sum(m for m in margins if m > 0) / total if total > 0 else 0.0
            missed = max(missed, max((m / best[n] for m, n in zip(margins, entry.errors, strict=True) if best[n] > 0),
                                     default=-1.0))
        return gained / len(solution.cheapest) if gained > 0 else min(missed, 0.0)

    def score(self, entries: Iterable[Entry]) -> None:
        """Measure operators where models would take them, and take them in as options."""
        wanted = [(Operator.parse(e.formula), e) for e in entries if Operator.parse(e.formula).id not in self.entries]
        fillings, owners = [], []
        for op, entry in wanted:
            for shape, members in self.shapes.items():
                if slots := [s for s in members if s.name in entry.errors and self._promising(entry, s.name)]:
                    fillings.append((op, slots))
                    owners.append((entry, shape))
        for (entry, shape), (_, slots), ms in zip(owners, fillings, self.timer.of(fillings), strict=True):
            if ms is None:
                for slot in slots:
                    entry.errors.pop(slot.name, None)
            else:
                entry.saved_ms[shape] = ms
        for op, entry in wanted:
            for name in list(entry.errors):
                slot = self._slot(name)
                if self.shape_of[name] in entry.saved_ms and entry.saved_ms[self.shape_of[name]] > 0:
                    entry.changes[name] = self.output.of(name, self.filled(op, slot))
            if self._keep is not None:
                self._keep(entry.record(self.screened))
            self._take(op, entry)

    def measure_again(self) -> None:
        """Measure what the models of the front take once more, and average: what was chosen for what it saves saves less, as a
        rule, since measurements err."""
        taken = Counter((choice, self.shape_of[name]) for assignment in self._priced() for name, choice in
                        assignment.choices.items() if choice != KEEP)
        wanted = [(op_id, shape) for (op_id, shape), _ in taken.most_common(_AGAIN) if shape in self.entries[op_id].saved_ms]
        fillings = [(Operator.parse(self.entries[op_id].formula), [s for s in self.shapes[shape]
                                                                    if s.name in self.entries[op_id].errors])
                    for op_id, shape in wanted]
        for (op_id, shape), ms in zip(wanted, self.timer.of(fillings), strict=True):
            entry = self.entries[op_id]
            if ms is not None:
                entry.saved_ms[shape] = (entry.saved_ms[shape] + ms) / 2
                if self._keep is not None:
                    self._keep(entry.record(self.screened))
                self._take(Operator.parse(entry.formula), entry)

    def _priced(self) -> list[Assignment]:
        """The models of the front at :data:`PRICES`."""
        front = self.front()
        top = front[-1].latency_ms - front[0].latency_ms
        return [min(front, key=lambda a: abs(front[-1].latency_ms - part * top - a.latency_ms)) for part in PRICES]

    def filled(self, op: Operator, slot: Slot) -> FilledSlot:
        """The operator in a slot with its fitted weights."""
        self.fits.errors(op, [slot])
        filled = take_over(self.model.get_submodule(slot.name), FilledSlot.of(op, fitting(op, slot)))
        for parameter, value in zip(filled.layer.weights, self.fits.weights(op, slot.name), strict=True):
            parameter.data.copy_(value)
        return filled.eval()

    # --- models ------------------------------------------------------------------------------------------------------

    def options(self) -> dict[str, list[Option]]:
        """What every slot may hold, with the time that it takes beyond the fastest option, and the change of the output."""
        return self._solution().options

    def front(self) -> list[Assignment]:
        """The models that no other beats in time and loss, by what is known of single slots; the fastest first."""
        return self._solution().front

    def latency_ms(self, assignment: Assignment) -> float:
        """What the model of an assignment should take."""
        return self.original_ms - sum(self._solution().most.values()) + assignment.latency_ms

    def speedup(self, assignment: Assignment) -> float:
        """What the model of an assignment should gain over the original."""
        return self.original_ms / max(self.latency_ms(assignment), 1e-3 * self.original_ms)

    def nearest(self, speedup: float) -> Assignment:
        """The model of the front that loses least at this speedup, or the fastest where none reaches it."""
        reached = [a for a in self.front() if self.speedup(a) >= speedup]
        return min(reached, key=lambda a: a.loss) if reached else self.front()[0]

    def sample(self, assignment: Assignment) -> dict[str, str]:
        """Formula or ``'keep'`` by slot name."""
        return {name: KEEP if choice == KEEP else self.entries[choice].formula for name, choice in assignment.choices.items()}

    def one_for_all(self) -> list[Assignment]:
        """Every operator in all slots that it is an option for, alone."""
        found = []
        for op_id in self.entries:
            choices, ms, loss = {}, 0.0, 0.0
            for name, options in self.options().items():
                chosen = next((o for o in options if o.name == op_id), options[0])
                choices[name], ms, loss = chosen.name, ms + chosen.latency_ms, loss + chosen.loss
            found.append(Assignment(choices, ms, loss))
        return found

    # --- what is known and what is guessed ---------------------------------------------------------------------------

    def _slot(self, name: str) -> Slot:
        return next(s for s in self.slots if s.name == name)

    def _predict(self, module: nn.Module, slot: Slot) -> float:
        from .measure_slots import layer_input
        return self.times.layer_ms(module, tuple(layer_input(slot).shape))

    def _saves(self, op: Operator, slot: Slot) -> float | None:
        try:
            with sketching():  # what it does is asked, not with which weights
                filled = FilledSlot.of(op, fitting(op, slot))
        except SynoError:
            return None
        return self._layer_ms[slot.name] - self._predict(filled, slot)

    def _saved(self, entry: Entry, name: str, doubt: float = DOUBT) -> float:
        """Measured, or predicted in the proportion in which predictions for slots of this shape came true."""
        shape = self.shape_of[name]
        if shape in entry.saved_ms:
            return entry.saved_ms[shape]
        return entry.predicted_ms.get(name, 0.0) * self._bias.get(shape, 1.0) / doubt

    def _change(self, entry: Entry, name: str, doubt: float = DOUBT) -> float:
        """Measured, or by the error and what errors in this slot cost."""
        if name in entry.changes:
            return entry.changes[name]
        return doubt * min(entry.errors.get(name, 1.0), 1.0) * self._sensitivity.get(name, 1.0)

    def _is_option(self, entry: Entry, name: str) -> bool:
        return name in entry.errors and self._saved(entry, name) > 0

    def _promising(self, entry: Entry, name: str) -> bool:
        """Whether a model might take it in this slot: at some price it is nearly as good as what is there."""
        solution = self._solution()
        change, beyond = self._change(entry, name, 1.0), solution.most[name] - self._saved(entry, name, 1.0)
        return not self.entries or any(change + price * beyond <= _NEARLY * best[name]
                                       for price, best in solution.cheapest.items())

    def _solution(self) -> _Solution:
        if self._solved is None:
            options, most = {}, {}
            for slot in self.slots:
                usable = [(op_id, e) for op_id, e in self.entries.items() if self._is_option(e, slot.name)]
                most[slot.name] = max((self._saved(e, slot.name) for _, e in usable), default=0.0)
                options[slot.name] = [Option(KEEP, most[slot.name]), *(
                    Option(op_id, most[slot.name] - self._saved(e, slot.name), self._change(e, slot.name))
                    for op_id, e in usable)]
            front = pareto(options)
            cheapest = {price: {name: min(o.loss + price * o.latency_ms for o in own) for name, own in options.items()}
                        for price in _prices(front)}
            self._solved = _Solution(options, front, most, cheapest)
        return self._solved

    def _take(self, op: Operator, entry: Entry) -> None:
        self.entries[op.id] = entry
        self._solved = None
        for name in entry.changes:
            ratios = [e.changes[name] / e.errors[name] for e in self.entries.values()
                      if name in e.changes and e.errors.get(name, 0) > 1e-4]
            if ratios:
                self._sensitivity[name] = float(np.median(ratios))
        for shape, members in self.shapes.items():
            ratios = [e.saved_ms[shape] / e.predicted_ms[s.name] for e in self.entries.values() for s in members
                      if shape in e.saved_ms and e.predicted_ms.get(s.name, 0) > 0]
            if ratios:
                self._bias[shape] = float(np.clip(np.median(ratios), 0.1, 10))


def _prices(front: Sequence[Assignment]) -> tuple[float, ...]:
    """Nats per millisecond at which the solver would choose the models at :data:`PRICES` of the front."""
    if len(front) < 3:
        return (1.0,)
    ms, loss = np.array([a.latency_ms for a in front]), np.array([a.loss for a in front])
    span, found = ms[-1] - ms[0], []
    for part in PRICES:
        # The slope over a fifth of the front: single steps are as uneven as the options are.
        at = ms[-1] - part * span
        lower, upper = np.interp([at - span / 10, at + span / 10], ms, loss)
        found.append(max(float(lower - upper) / (span / 5), 1e-9))
    return tuple(found)
