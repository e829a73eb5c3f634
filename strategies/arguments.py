"""What the arguments of strategies may be, said once, in their signatures, and checked where a file gives them.

>>> class Mine(SynoStrategy):
...     def __init__(self, *, width: AtLeastOne = 8, **arguments): ...

``strategy.classArgs: {width: 0}`` is then refused with the bound, and ``{widht: 8}`` with the name that was meant.
"""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from syno_nni.errors import ConfigError
from syno_nni.run.wording import one_line_of

CountFrom0 = Annotated[int, Field(ge=0, le=10 ** 7)]
AtLeastOne = Annotated[int, Field(ge=1, le=10 ** 7)]
AtLeast0 = Annotated[float, Field(ge=0, le=1e9)]
Above0 = Annotated[float, Field(gt=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]

_SAID_ELSEWHERE = {'seed': 'strategy.seed'}
_NOT_IN_FILES = ('journal',)


def check_arguments(strategy: type, arguments: Mapping[str, Any]) -> None:
    """Whether a file may give these arguments to a strategy.

    Raises:
        ConfigError: one is unknown (the closest name is suggested), of another type, or out of its bounds.
    """
    for name, instead in _SAID_ELSEWHERE.items():
        if name in arguments:
            raise ConfigError(f'strategy.classArgs.{name}: write {instead} instead')
    schema = _schema(strategy)
    try:
        schema.model_validate(dict(arguments))
    except ValidationError as error:
        raise ConfigError(f'strategy.classArgs: {one_line_of(error, schema)}') from None


def _schema(strategy: type) -> type[BaseModel]:
    """The keyword arguments of a strategy and of its base classes, which it passes on."""
    fields: dict[str, Any] = {}
    for cls in reversed(strategy.__mro__):
        function = vars(cls).get('__init__')
        parameters = ([p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
                      if inspect.isfunction(function) else [])
        hints = get_type_hints(function, include_extras=True) if parameters else {}
        fields |= {p.name: (hints[p.name], p.default) for p in parameters
                   if p.name in hints and p.name not in (*_SAID_ELSEWHERE, *_NOT_IN_FILES)}
    config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)
    return create_model(strategy.__name__, __config__=config, **fields)
