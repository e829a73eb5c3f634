"""The records of a run's journal: the one place that says what a line may hold.

A line is a JSON object with ``event`` (the record's type) and ``time`` (Unix seconds). Within one ``FORMAT`` a record
may gain optional fields, which older readers ignore; a record that changes its meaning raises ``FORMAT``.
"""
from __future__ import annotations

import math
import time as clock
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

FORMAT = 1


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    for key, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'metric {key} is {value}; a measurement that is not finite is a failure')
    return metrics


Metrics = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""``default`` (what the search maximises), ``accuracy``, ``latency_ms``, ``baseline_latency_ms``, ``speedup``,
``macs``, ``params``, and whatever else a trial reports."""

FailureReason = Literal['error', 'timeout', 'crash', 'out_of_memory', 'no_metric', 'bad_metric', 'wrong_result',
                        'rejected', 'cancelled']
"""``error``: the trial raised; ``crash``: its process died; ``no_metric``: it ended without a report; ``bad_metric``:
its report has no finite ``default``; ``wrong_result``: a kernel differs from the reference; ``rejected``: a filter
turned it down before training; ``cancelled``: the user or a time limit stopped it."""


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


class Baseline(_Record):
    """The original model, trained with the candidates' recipe and measured as they are."""
    event: Literal['baseline'] = 'baseline'
    metrics: Metrics


class Proposed(_Record):
    """The strategy chose a candidate. ``sample`` maps the label of each choice to its value, as NNI's samples do."""
    event: Literal['proposed'] = 'proposed'
    id: str
    formula: str
    label: str = ''
    sample: dict[str, JsonValue] = Field(default_factory=dict)


class Started(_Record):
    """A candidate's evaluation began; it may begin again after a crash. ``trial`` is the engine's name for it."""
    event: Literal['started'] = 'started'
    id: str
    trial: str = ''


class Finished(_Record):
    """A candidate was evaluated: final, and never repeated."""
    event: Literal['finished'] = 'finished'
    id: str
    metrics: Metrics


class Failed(_Record):
    """A candidate's evaluation failed."""
    event: Literal['failed'] = 'failed'
    id: str
    reason: FailureReason
    message: str = ''


class StrategyState(_Record):
    """What the strategy needs to go on, random state included; the last one counts."""
    event: Literal['strategy'] = 'strategy'
    state: dict[str, JsonValue]


class Tested(_Record):
    """Metrics on the test split, taken once, at the end. ``id`` is a candidate's, or '' for the baseline."""
    event: Literal['tested'] = 'tested'
    id: str
    metrics: Metrics


class Ended(_Record):
    """The search stopped: ``budget`` or ``time`` used up, ``exhausted`` space, ``interrupted``, or ``error``."""
    event: Literal['ended'] = 'ended'
    reason: Literal['budget', 'time', 'exhausted', 'interrupted', 'error']
    message: str = ''


AnyRecord = Header | Resumed | Baseline | Proposed | Started | Finished | Failed | StrategyState | Tested | Ended
Record = Annotated[AnyRecord, Field(discriminator='event')]
PARSER: TypeAdapter[Record] = TypeAdapter(Record)
EVENTS = tuple(record.model_fields['event'].default for record in get_args(AnyRecord))
"""The names of all events."""
