"""What the sections of experiment files are made of: a strict pydantic model with camelCase keys, and its scalars."""
from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError('should be a number')
    return value


def _seconds(value: Any) -> Any:
    """Seconds from a number or from NNI's notation (``90``, ``'90s'``, ``'10m'``, ``'1h'``, ``'1d'``)."""
    if isinstance(value, str):
        match = re.fullmatch(r'(\d{1,9})\s*([smhd]?)', value.strip())
        if match:
            return int(match[1]) * {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("should be a duration such as 90, '90s', '10m', '1h' or '1d'")


def _words(value: Any) -> Any:
    return [word.strip() for word in value.split(',') if word.strip()] if isinstance(value, str) else value


Whole = Annotated[int, Field(strict=True, ge=0, lt=2 ** 53)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2 ** 53)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Weight = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=1)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]


class Section(BaseModel):
    """A frozen part of an experiment file; unknown keys are errors."""
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra='forbid',
                              frozen=True, validate_default=True)
