"""Plots of a run, drawn from its state alone: the Pareto front and the convergence of the search.

matplotlib draws them off-screen (Agg), without touching the state of pyplot.
"""
from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from syno_nni.text import cell

from .state import RunState, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_OPERATOR, _FRONT, _BASELINE, _BEST, _INK = '#9AA5B1', '#0072B2', '#D55E00', '#009E73', '#2B2F36'
_STYLE: Any = {
    'axes.edgecolor': '#9AA5B1', 'axes.labelcolor': _INK, 'axes.spines.right': False, 'axes.spines.top': False,
    'axes.titlelocation': 'left', 'axes.titlepad': 10, 'axes.titlesize': 11, 'axes.titleweight': 'bold',
    'font.size': 9.5,
    'grid.color': '#E6E9ED', 'grid.linewidth': 0.8,
    'text.color': _INK, 'text.usetex': False, 'xtick.color': _INK, 'ytick.color': _INK,
}


def pareto_png(state: RunState) -> bytes:
    """Validation accuracy against latency: every evaluated operator, the Pareto front, and the original model."""
    return _draw(_pareto, state)


def convergence_png(state: RunState) -> bytes:
    """The objective of each operator in the order of the results, the best so far, and the original model's."""
    return _draw(_convergence, state)


def latency_conditions(state: RunState) -> str:
    """Under which conditions latency was measured: ``eager, 1 thread, batch 1``."""
    latency = section(state, 'latency')
    threads = latency.get('threads', 1)
    return (f'{cell(latency.get("runtime", "eager"), 40)}, {cell(threads, 40)} thread{"s" if threads != 1 else ""}, '
            f'batch {cell(latency.get("batchSize", 1), 40)}')


def model_name(state: RunState) -> str:
    """The name of the model that a run is about, or of the function that makes it."""
    model = section(state, 'model')
    return str(model.get('name') or str(model.get('factory') or '').rpartition(':')[2])


def section(state: RunState, name: str) -> dict[str, Any]:
    """A section of the recorded configuration, which another version may have written; empty where it is none."""
    found = state.config.get(name)
    return found if isinstance(found, dict) else {}


def _title(axes: Axes, state: RunState) -> None:
    axes.set_title(cell(state.config.get('experimentName', 'search'), 100), parse_math=False)


def _draw(plot: Callable[[Axes, RunState], None], state: RunState) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.4), dpi=150, layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        plot(axes, state)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            # Above the axes, where it hides no point.
            axes.legend(handles, labels, frameon=False, loc='lower right', bbox_to_anchor=(1.01, 0.99), fontsize=9,
                        ncols=3, columnspacing=1.2, handletextpad=0.4, borderaxespad=0)
        else:
            axes.text(0.5, 0.5, 'no results yet', transform=axes.transAxes, ha='center', color=_OPERATOR)
        figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def _pareto(axes: Axes, state: RunState) -> None:
    points, front = state.measured, state.front
    others = [c for c in points if c not in front]
    axes.scatter(*_xy(others, state), s=34, color=_OPERATOR, alpha=0.75, linewidth=0, label='operator', zorder=2)
    if front:
        x, y = _xy(front, state)
        # A step: between two neighbours, the faster one is what a latency budget can buy.
        axes.step(x, y, where='post', color=_FRONT, linewidth=1.2, alpha=0.6, zorder=2)
        axes.scatter(x, y, s=52, color=_FRONT, edgecolor='white', linewidth=0.8, label='Pareto-best', zorder=3)
    original = [c for c in [state.baseline] if c is not None and {'latency_ms', 'accuracy'} <= c.metrics.keys()]
    if original:
        x, y = _xy(original, state)
        axes.axvline(x[0], color=_BASELINE, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
        axes.axhline(y[0], color=_BASELINE, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
        axes.scatter(x, y, s=70, marker='D', color=_BASELINE, edgecolor='white', linewidth=0.8,
                     label='original model', zorder=4)
    _frame(axes, *_xy([*points, *original], state))
    for n, candidate in enumerate(_labelled(front)):
        _label(axes, candidate, *(v[0] for v in _xy([candidate], state)), above=n % 2 == 0)
    axes.set_xlabel(f'latency (ms), {latency_conditions(state)}', parse_math=False)
    axes.set_ylabel('validation accuracy (%)')
    _title(axes, state)


def _convergence(axes: Axes, state: RunState) -> None:
    from matplotlib.ticker import MaxNLocator
    scored = [c for c in state.succeeded if 'default' in c.metrics]
    if scored:
        numbers = list(range(1, len(scored) + 1))
        values = [c.metrics['default'] for c in scored]
        best = [max(values[:n]) for n in numbers]
        axes.scatter(numbers, values, s=30, color=_OPERATOR, linewidth=0, label='operator', zorder=2)
        axes.step(numbers, best, where='post', color=_BEST, linewidth=1.8, label='best so far', zorder=3)
    if state.baseline is not None and 'default' in state.baseline.metrics:
        axes.axhline(state.baseline.metrics['default'], color=_BASELINE, linewidth=1, linestyle=(0, (4, 3)),
                     label='original model', zorder=1)
    axes.set_xlabel('evaluated operators')
    axes.set_ylabel('objective (default)')
    _title(axes, state)
    axes.grid(axis='y')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _xy(candidates: list[Trial], state: RunState) -> tuple[list[float], list[float]]:
    return [state.latency_ms(c) for c in candidates], [100 * c.metrics['accuracy'] for c in candidates]


def _frame(axes: Axes, x: list[float], y: list[float]) -> None:
    """Limits with room for labels. Latency starts at 0, so that distances show ratios, unless that wastes space."""
    axes.grid()
    if not x:
        return
    low, high = min(y), max(y)
    room = max(high - low, 1.0)
    start = 0 if min(x) < max(x) / 2 else min(x) - 0.35 * max(max(x) - min(x), 0.1 * max(x))
    axes.set_xlim(start, max(x) + 0.08 * (max(x) - start))
    axes.set_ylim(low - 0.15 * room, min(high + 0.2 * room, 100 + 0.04 * room))


def _labelled(front: list[Trial]) -> list[Trial]:
    """At most six points of the front, evenly chosen, so that labels do not crowd."""
    if len(front) <= 6:
        return front
    return [front[round(i * (len(front) - 1) / 5)] for i in range(6)]


def _label(axes: Axes, candidate: Trial, x: float, y: float, *, above: bool) -> None:
    speedup = candidate.metrics.get('speedup')
    text = candidate.id[:6] + (f' {speedup:.2f}x' if speedup else '')
    axes.annotate(text, (x, y), xytext=(-5, 7 if above else -13), textcoords='offset points', ha='right',
                  fontsize=8, color=_FRONT, zorder=5, parse_math=False)
