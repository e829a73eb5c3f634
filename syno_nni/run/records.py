"""The records of a run's journal: the one place that says what a line may hold.

A line is a JSON object with ``event`` (the record's type) and ``time`` (Unix seconds). Within one ``FORMAT`` a record
may gain optional fields, which older readers ignore; a record that changes its meaning raises ``FORMAT``.
"""
from __future__ import annotations

import math
import time as clock
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter

from syno_nni.errors import shown
from syno_nni.text import cell

FORMAT = 1


def _plain(metrics: Any) -> Any:
    """numpy and torch scalars as numbers."""
    if not isinstance(metrics, Mapping):
        return metrics
    return {k: v.item() if hasattr(v, 'item') and getattr(v, 'ndim', 1) == 0 else v for k, v in metrics.items()}


_RANGES = {'default': (-1e15, 1e15), 'accuracy': (-1e15, 1e15), 'proxy_accuracy': (-1e15, 1e15),
           'latency_ms': (1e-9, 1e12), 'baseline_latency_ms': (1e-9, 1e12), 'speedup': (1e-9, 1e12),
           'macs': (0, 1e20), 'params': (0, 1e20), 'gradient_norm': (-1e300, 1e300)}
"""The metrics that tables, plots and strategies count with, and where they lie; ``..._seconds`` (0 to 1e12) beside them."""


def odd_metric(metrics: Mapping[str, Any]) -> str | None:
    """Why metrics cannot be used: one that is not finite, or a known one that is no number of its range. Or None."""
    for key, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f'metric {cell(key, 60)} is {value}, want a finite number'
        low, high = _RANGES.get(key, (0, 1e12) if key.endswith('_seconds') else (None, None))
        if low is None or high is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f'metric {cell(key, 60)} is {shown(value)}, want a number'
        if not low <= value <= high:
            return f'metric {cell(key, 60)} is {shown(value)}, want a number from {low:g} to {high:g}'
    return None


def _usable(metrics: dict[str, Any]) -> dict[str, Any]:
    if problem := odd_metric(metrics):
        raise ValueError(f'{problem}; a measurement that is none is a failure')
    return metrics


def _one_word(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f'an id has printable characters only, got {shown(text)}')
    return text


def _paths(note: dict[str, Any]) -> dict[str, Any]:
    paths = note.get('paths', {})
    if not isinstance(paths, dict) or not all(isinstance(path, list) and all(type(step) is int for step in path)
                                              for path in paths.values()):
        raise ValueError('"paths" maps choices to lists of whole numbers')
    return note


Metrics = Annotated[dict[str, JsonValue], BeforeValidator(_plain), AfterValidator(_usable)]
"""``default`` (what the search maximises), ``accuracy``, ``latency_ms``, ``baseline_latency_ms``, ``speedup``,
``macs``, ``params``, and whatever else a trial reports."""


class OutcomeKind(StrEnum):
    """How an evaluation ends."""
    SUCCEEDED = 'succeeded'
    EXCEPTION = 'exception'
    """It raised."""
    TIMEOUT = 'timeout'
    """It took too long."""
    DIED = 'died'
    """Its process vanished."""
    INVALID_METRIC = 'invalid-metric'
    """Its metrics are unusable."""
    REJECTED = 'rejected'
    """A stage found the candidate not worth the next: a result of the search, though without an objective."""
    LOST = 'lost'
    """The search was killed again and again while it ran."""


Number = Annotated[int, Field(ge=0, lt=2 ** 53)]
Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_word)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra='ignore', strict=True)
    time: Seconds = Field(default_factory=lambda: round(clock.time(), 3))


class Header(_Record):
    """The first line: format version, the resolved configuration and its digest, and where the run takes place."""
    event: Literal['header'] = 'header'
    format: int = FORMAT
    config: dict[str, JsonValue]
    digest: str
    environment: dict[str, JsonValue] = Field(default_factory=dict)


class Resumed(_Record):
    """The run goes on in another process, with this (possibly larger) budget."""
    event: Literal['resumed'] = 'resumed'
    config: dict[str, JsonValue]
    environment: dict[str, JsonValue] = Field(default_factory=dict)


class Submitted(_Record):
    """A candidate goes to the engine; once more (``attempt`` 2) if the search was killed while it ran.

    ``number`` 0, id ``baseline``, is the original model: evaluated like a candidate. ``sample`` maps the label of each
    choice to a formula or ``keep``. ``rng`` says which random stream the proposal drew from, ``note`` is what the
    strategy wants to know about it when the search resumes.
    """
    event: Literal['submitted'] = 'submitted'
    number: Number
    id: Id
    formula: str
    sample: dict[str, str] = Field(default_factory=dict)
    attempt: int = Field(default=1, ge=1, lt=2 ** 31)
    rng: dict[str, JsonValue] = Field(default_factory=dict)
    note: Annotated[dict[str, JsonValue], AfterValidator(_paths)] = Field(default_factory=dict)


class Intermediate(_Record):
    """Metrics on the way, such as those of an epoch."""
    event: Literal['intermediate'] = 'intermediate'
    number: Number
    id: Id
    metrics: Metrics


class Abandoned(_Record):
    """The search ended in good order while this candidate was in flight; the attempt does not count."""
    event: Literal['abandoned'] = 'abandoned'
    number: Number
    id: Id


def _no_success(kind: OutcomeKind) -> OutcomeKind:
    if kind == OutcomeKind.SUCCEEDED:
        raise ValueError('an error is of another kind than succeeded')
    return kind


class Error(BaseModel):
    """Why a candidate has no result."""
    model_config = ConfigDict(frozen=True, extra='ignore')
    kind: Annotated[OutcomeKind, AfterValidator(_no_success)]
    message: str = ''


class Finished(_Record):
    """A candidate's outcome, final and never repeated: ``metrics`` if it succeeded, else ``error``."""
    event: Literal['finished'] = 'finished'
    number: Number
    id: Id
    state: Literal['succeeded', 'failed']
    metrics: Metrics = Field(default_factory=dict)
    error: Error | None = None
    duration_s: Seconds | None = None


Numbers = Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=100_000)]


class Scored(_Record):
    """What a search by retrofit knows of an operator: by slot the relative ``errors`` of its best weights and the measured
    ``changes`` of the output (nats per image), the milliseconds that it should save, and by shape of slots those that it was
    measured to save. ``origin`` says who proposed it, ``screened`` how many operators had been looked at by then."""
    event: Literal['scored'] = 'scored'
    formula: str
    origin: str = ''
    screened: Number = 0
    errors: Numbers = Field(default_factory=dict)
    changes: Numbers = Field(default_factory=dict)
    predicted_ms: Numbers = Field(default_factory=dict)
    saved_ms: Numbers = Field(default_factory=dict)


class Healed(_Record):
    """A candidate was trained on: its metrics now, in the place of those of the same names."""
    event: Literal['healed'] = 'healed'
    id: Id
    metrics: Metrics


class Tested(_Record):
    """Metrics on the test split, taken once, at the end."""
    event: Literal['tested'] = 'tested'
    id: Id
    metrics: Metrics


class Ended(_Record):
    """The search stopped: ``budget`` or ``time`` used up, ``exhausted`` space, ``interrupted``, or ``error``."""
    event: Literal['ended'] = 'ended'
    reason: Literal['budget', 'time', 'exhausted', 'interrupted', 'error']
    message: str = ''


AnyRecord = Header | Resumed | Submitted | Intermediate | Abandoned | Finished | Scored | Healed | Tested | Ended
Record = Annotated[AnyRecord, Field(discriminator='event')]
PARSER: TypeAdapter[Record] = TypeAdapter(Record)
EVENTS = tuple(record.model_fields['event'].default for record in get_args(AnyRecord))
"""The names of all events."""
