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

FORMAT = 1


def _plain(metrics: Any) -> Any:
    """numpy and torch scalars as numbers."""
    if not isinstance(metrics, Mapping):
        return metrics
    return {k: v.item() if hasattr(v, 'item') and getattr(v, 'ndim', 1) == 0 else v for k, v in metrics.items()}


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    for key, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'metric {key} is {value}; a measurement that is not finite is a failure')
    return metrics


Metrics = Annotated[dict[str, JsonValue], BeforeValidator(_plain), AfterValidator(_finite)]
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


Number = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra='ignore', strict=True)
    time: float = Field(default_factory=lambda: round(clock.time(), 3))


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
    id: str
    formula: str
    sample: dict[str, str] = Field(default_factory=dict)
    attempt: int = Field(default=1, ge=1)
    rng: dict[str, JsonValue] = Field(default_factory=dict)
    note: dict[str, JsonValue] = Field(default_factory=dict)


class Intermediate(_Record):
    """Metrics on the way, such as those of an epoch."""
    event: Literal['intermediate'] = 'intermediate'
    number: Number
    id: str
    metrics: Metrics


class Abandoned(_Record):
    """The search ended in good order while this candidate was in flight; the attempt does not count."""
    event: Literal['abandoned'] = 'abandoned'
    number: Number
    id: str


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
    id: str
    state: Literal['succeeded', 'failed']
    metrics: Metrics = Field(default_factory=dict)
    error: Error | None = None
    duration_s: float | None = None


class Tested(_Record):
    """Metrics on the test split, taken once, at the end."""
    event: Literal['tested'] = 'tested'
    id: str
    metrics: Metrics


class Ended(_Record):
    """The search stopped: ``budget`` or ``time`` used up, ``exhausted`` space, ``interrupted``, or ``error``."""
    event: Literal['ended'] = 'ended'
    reason: Literal['budget', 'time', 'exhausted', 'interrupted', 'error']
    message: str = ''


AnyRecord = Header | Resumed | Submitted | Intermediate | Abandoned | Finished | Tested | Ended
Record = Annotated[AnyRecord, Field(discriminator='event')]
PARSER: TypeAdapter[Record] = TypeAdapter(Record)
EVENTS = tuple(record.model_fields['event'].default for record in get_args(AnyRecord))
"""The names of all events."""
