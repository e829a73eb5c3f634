"""What the sections of experiment files are made of: a strict pydantic model with camelCase keys, its scalars, and what a
plain YAML scalar means to a person.

A YAML scalar without quotes may be read in more than one way: ``1e9`` is text to YAML 1.1, ``1:30`` is 90, ``010`` is 8,
``no`` is false, ``1.10`` is 1.1, a date is a date. So the reader (:mod:`syno_nni.run.yaml_file`) keeps what stood there, as
:class:`SourceInt`, :class:`SourceFloat` or :class:`Ambiguous`, and the fields below decide: text is taken as it was written,
a number is read where only one reading makes sense, and everything else is refused with what to write instead.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

_MAX_DEPTH = 30
_LARGEST = 2 ** 63


class SourceInt(int):
    """A whole number of a file, with the ``source`` text that it was written as."""
    source: str

    @classmethod
    def of(cls, value: int, source: str) -> SourceInt:
        self = cls(value)
        self.source = source
        return self


class SourceFloat(float):
    """A number of a file, with the ``source`` text that it was written as."""
    source: str

    @classmethod
    def of(cls, value: float, source: str) -> SourceFloat:
        self = cls(value)
        self.source = source
        return self


class Ambiguous(str):
    """A scalar that YAML 1.1 reads otherwise than most people mean it. As text it is what was written; ``meaning`` is its
    value where a truth value is wanted (``on``, ``no``, ...), ``why`` what is wrong with it where a number is."""
    meaning: bool | None
    why: str

    @classmethod
    def of(cls, source: str, why: str, meaning: bool | None = None) -> Ambiguous:
        self = cls(source)
        self.why, self.meaning = why, meaning
        return self


def plain(value: Any) -> Any:
    """Data that may hold scalars of a file as plain JSON data: truth values are what YAML 1.1 says.

    Raises:
        ValueError: a scalar is ambiguous, a number is not finite or beyond 64 bits, or the data nest too deeply.
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f'should nest at most {_MAX_DEPTH} deep')
    if isinstance(value, Mapping):
        return {key if not isinstance(key, str) else str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Ambiguous):
        if value.meaning is None:
            raise ValueError(f'is not a valid JSON value: {value.why}')
        return value.meaning
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError('should be a number of at most 64 bits')
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError('should be a finite number')
        return float(value)
    if isinstance(value, str):
        return str(value)
    return value


def _bool(value: Any) -> Any:
    return value.meaning if isinstance(value, Ambiguous) and value.meaning is not None else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError('should be a number')
    if isinstance(value, Ambiguous):
        raise ValueError(f'should be a number; {value.why}')
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError('should be a number of at most 64 bits')
    if isinstance(value, str) and len(value) > 100:
        raise ValueError('should be a number')
    return value


def _whole(value: Any) -> Any:
    """An int also where it was written as ``1e9`` or ``64.0``."""
    value = value if isinstance(value, bool) else _number(value)
    if isinstance(value, str) and re.fullmatch(r'[-+]?\d{1,20}(\.\d{0,20})?[eE][-+]?\d{1,3}', value):
        value = float(value)  # YAML 1.1 readers, such as NNI's, take 1e9 for text
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST:
        return int(value)
    return value


def _seconds(value: Any) -> Any:
    """Seconds from a number or from NNI's notation (``90``, ``'90s'``, ``'10m'``, ``'1h'``, ``'1d'``)."""
    wanted = "should be a duration such as 90, '90s', '10m', '1h' or '1d'"
    if isinstance(value, Ambiguous):
        raise ValueError(f'{wanted}; {value.why}')
    if isinstance(value, str):
        match = re.fullmatch(r'(\d{1,9})\s*([smhd]?)', value.strip(), re.ASCII)
        if match:
            return int(match[1]) * {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}[match[2]]
        if re.fullmatch(r'\d{1,9}:\d{1,2}(:\d{1,2})?', value.strip(), re.ASCII):
            raise ValueError(f'{wanted}; minutes and seconds, or hours and minutes?')
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = _whole(value)
        if isinstance(seconds, int):
            return seconds
    raise ValueError(wanted)


def _text(value: Any) -> Any:
    """Numbers and the like as they were written: a name such as ``1.10`` is no number."""
    if isinstance(value, (SourceInt, SourceFloat)):
        return value.source
    return str(value) if isinstance(value, str) else value


def _path(text: str) -> str:
    if '\0' in text:
        raise ValueError('should be a path, which has no NUL character')
    if any(len(part.encode(errors='surrogatepass')) > 255 for part in text.split('/')):
        raise ValueError('should be a path, whose parts have at most 255 bytes')
    return text


def _words(value: Any) -> Any:
    value = _text(value)
    return [word.strip() for word in value.split(',') if word.strip()] if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_bool), Field(strict=True)]
Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, lt=2 ** 53)]
Count = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=1, lt=2 ** 53)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Weight = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=1, lt=2 ** 40)]
Text = Annotated[str, BeforeValidator(_text), Field(strict=True, min_length=1, max_length=10_000)]
MaybeText = Annotated[str, BeforeValidator(_text), Field(strict=True, max_length=10_000)]
PathText = Annotated[Text, Field(max_length=4000), AfterValidator(_path)]
FUNCTION_NAME = r'^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$'
FunctionName = Annotated[Text, Field(pattern=FUNCTION_NAME)]
"""``package.module:function``"""
Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]
Free = Annotated[JsonValue, BeforeValidator(plain)]
"""Whatever JSON can say: arguments that go on to others."""


class Section(BaseModel):
    """A frozen part of an experiment file; unknown keys are errors."""
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra='forbid',
                              frozen=True, validate_default=True)
