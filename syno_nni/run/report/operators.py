"""The sections about the best operators: what each does, drawn, written and tried out."""
from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from syno_nni.errors import SynoError
from syno_nni.operator import Operator
from syno_nni.operator.draw_svg import field_panel, graph_panel, svg, touches_panel
from syno_nni.operator.example_sizes import example_sizes
from syno_nni.operator.receptive_field import MAP_VARIABLES, receptive_field, small_sizes
from syno_nni.text import cell

from .model_facts import ModelFacts, PlanFacts, SlotFacts


@dataclass(frozen=True)
class Sample:
    """A small picture and what it shows."""
    title: str
    png: str


@dataclass(frozen=True)
class OperatorView:
    """What the page shows of one operator. Texts are plain, drawings are SVG made here from a parsed operator.

    ``problem`` says why there is nothing to show: the formula of an old or a hostile journal may not parse.
    """
    formula: str
    where: str
    sizes: str = ''
    macs: int = 0
    params: int = 0
    weights: tuple[str, ...] = ()
    graph: str = ''
    touches: str = ''
    field: str = ''
    seen: str = ''
    pretty: str = ''
    loop_nest: str = ''
    plan: PlanFacts | None = None
    samples: tuple[Sample, ...] = ()
    original_macs: int | None = None
    original_params: int | None = None
    problem: str = ''


def operator_view(formula: str, labels: list[str], facts: ModelFacts) -> OperatorView:
    """An operator at the largest of the slots that it fills; at usual sizes where these are unknown."""
    slots = [slot for slot in facts.slots if slot.label in labels]
    slot = max(slots, key=lambda s: s.macs, default=None)
    try:
        return _view(Operator.parse(formula), formula, slot, len(slots), facts)
    except SynoError as error:
        return OperatorView(cell(formula, 5000), '', problem=cell(error, 500))


def _view(op: Operator, formula: str, slot: SlotFacts | None, count: int, facts: ModelFacts) -> OperatorView:
    sizes = ({v: slot.sizes[v] for v in op.variables if v in slot.sizes} if slot is not None else example_sizes(op))
    if sizes is None or op.variables - sizes.keys():
        sizes, slot = small_sizes(op), None
    if sizes is None:
        raise SynoError('there are no sizes to show it at')
    where = ('at usual sizes' if slot is None else
             f'in the largest of its {count} slots, {slot.name}' if count > 1 else f'in its slot, {slot.name}')
    seen = receptive_field(op, sizes)
    return OperatorView(
        formula, where, ', '.join(f'{v} = {sizes[v]}' for v in sorted(sizes)), op.macs(sizes), op.params(sizes),
        tuple(' x '.join(map(str, shape)) for shape in op.weight_shapes(sizes)),
        svg(graph_panel(op), style=False, label=f'graph of {op.id}'),
        svg(touches_panel(op), style=False, label='which tensor has which index'),
        '' if seen is None else svg(field_panel(seen), style=False, label='receptive field'),
        '' if seen is None else seen.words(), op.pretty(), op.loop_nest(), facts.plans.get(formula), samples(op),
        slot.macs if slot else None, slot.params if slot else None)


@lru_cache(maxsize=64)
def samples(op: Operator) -> tuple[Sample, ...]:
    """What the operator does to an impulse and to a drawing, by its definition at small sizes; none for operators without
    a map of two dimensions, or that would take long.

    All channels of the input are alike; the pictures show the mean over the output's channels.
    """
    sizes = small_sizes(op)
    if sizes is None or not (axes := _maps(op.inputs)) or not (ours := _maps(tuple(op.outs()))):
        return ()
    shape = op.input_shape(sizes)
    side = shape[axes[0]], shape[axes[1]]
    impulse = np.zeros(side)
    impulse[side[0] // 2, side[1] // 2] = 1.0
    drawing = _drawing(*side)
    shapes = op.weight_shapes(sizes)
    random = np.random.default_rng(0)
    ones = [np.ones(s) for s in shapes]
    drawn = [random.standard_normal(s) for s in shapes]
    found = [Sample('a single bright pixel', _png(impulse)),
             Sample('becomes, with all weights 1', _png(_applied(op, impulse, ones, sizes, axes, ours, None))),
             Sample('a drawing', _png(drawing)),
             Sample('becomes, with all weights 1', _png(_applied(op, drawing, ones, sizes, axes, ours, None)))]
    if shapes:
        found.append(Sample('and with random weights (one channel)', _png(_applied(op, drawing, drawn, sizes, axes, ours, 0))))
    return tuple(found)


def _maps(coordinates: tuple[Any, ...]) -> tuple[int, int] | None:
    """The two dimensions of a map among these coordinates."""
    found = [n for n, c in enumerate(coordinates) if c.size.variables & MAP_VARIABLES]
    return (found[0], found[1]) if len(found) == 2 else None


def _applied(op: Operator, picture: np.ndarray, weights: list[np.ndarray], sizes: Mapping[str, int], axes: tuple[int, int],
             ours: tuple[int, int], channel: int | None) -> np.ndarray:
    shape = op.input_shape(sizes)
    at = [1] * len(shape)
    at[axes[0]], at[axes[1]] = picture.shape
    out = op.reference(np.broadcast_to(picture.reshape(at), shape), weights, sizes)
    out = np.moveaxis(out, ours, (-2, -1)).reshape(-1, out.shape[ours[0]], out.shape[ours[1]])
    return out.mean(axis=0) if channel is None else out[channel]


def _drawing(rows: int, columns: int) -> np.ndarray:
    """A disc, a bar and a dark half: edges of all directions."""
    y, x = np.mgrid[:rows, :columns]
    y, x = (y + 0.5) / rows, (x + 0.5) / columns
    picture = np.where(x + 0.35 * y > 0.85, 0.35, 0.0)
    picture[np.hypot(y - 0.38, x - 0.36) < 0.24] = 1.0
    picture[(np.abs(y - 0.82) < 0.07) & (x > 0.12)] = 0.8
    return picture


def _png(values: np.ndarray) -> str:
    """A grey picture as base64 text, stretched to the full range."""
    from matplotlib.image import imsave
    low, high = float(values.min()), float(values.max())
    buffer = io.BytesIO()
    imsave(buffer, (values - low) / (high - low or 1.0), cmap='gray', vmin=0.0, vmax=1.0, format='png')
    return base64.b64encode(buffer.getvalue()).decode()
