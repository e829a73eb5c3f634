"""What the report may say beyond the journal: the slots of the model, and how operators run in them. Plain data, because
this floor knows neither models nor plans; :func:`syno_nni.search.model_facts.model_facts` fills it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SlotFacts:
    """A layer that the search could replace. ``label`` is the choice that decides about it, ``macs`` and ``params`` are the
    original layer's per sample, ``sizes`` is its binding."""
    name: str
    label: str
    kind: str
    layer: str
    sizes: Mapping[str, int]
    macs: int
    params: int


@dataclass(frozen=True)
class PlanFacts:
    """How an operator runs at ``sizes``: library calls, one a line, and the multiply-adds that they execute."""
    sizes: Mapping[str, int]
    steps: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class ModelFacts:
    """Of the model of a run.

    Attributes:
        slots: in the order of the model.
        macs: the whole model's multiply-adds per sample; None when unknown.
        plans: by formula, for the operators that the report shows.
        note: why slots or plans are missing; empty when they are not.
    """
    slots: tuple[SlotFacts, ...] = ()
    macs: int | None = None
    plans: Mapping[str, PlanFacts] = field(default_factory=dict)
    note: str = ''
