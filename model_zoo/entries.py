"""The zoo's operators: JSON files beside this module, read by name or id; reading executes nothing."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from syno_nni.errors import SynoError, ZooError, shown
from syno_nni.files import DESCRIPTION_BYTES, parse_json, read_text
from syno_nni.operator import Operator
from syno_nni.operator.serialize import check_version
from syno_nni.run.wording import one_line_of
from syno_nni.text import cell, did_you_mean

FORMAT = 1
Line = Annotated[str, StringConstraints(max_length=10_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=1e9)]
Size = Annotated[int, Field(ge=0, lt=2 ** 63)]


class Part(BaseModel):
    """A part of a file of the zoo: fields of the right types; unknown ones may be anything that JSON can say, so that a newer
    version of the project can add some."""
    model_config = ConfigDict(extra='allow', strict=True, frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]


class Published(Part):
    """Numbers that others published for a backbone with the operator."""
    model: Name
    cifar100_accuracy: Share | None = None
    cifar100_baseline: Share | None = None
    imagenet_accuracy: Share | None = None
    imagenet_baseline: Share | None = None
    speedup_mobile_cpu_inductor: Ratio | None = None
    speedup_mobile_gpu_inductor: Ratio | None = None
    speedup_a100_inductor: Ratio | None = None
    model_macs: Size | None = None
    model_params: Size | None = None
    baseline_macs: Size | None = None
    baseline_params: Size | None = None


class EntryFile(Part):
    """What a file in ``operators/`` holds."""
    format: int
    name: Name
    formula: str
    family: Name
    source: Name
    id: str | None = None
    citation: Line = ''
    published: list[Published] = Field(default_factory=list)


@dataclass(frozen=True)
class ZooEntry:
    """An operator with its name, where it comes from, and what is known about it.

    ``published`` holds numbers that others published (one mapping per backbone, see :class:`Published`: accuracies as
    fractions, speedups as ratios, MACs and params of the whole model); they were not measured here.
    """

    name: str
    operator: Operator
    family: str
    source: str
    citation: str = ''
    published: tuple[Mapping[str, Any], ...] = field(default=())


def names() -> list[str]:
    """The names of all entries, sorted."""
    return sorted(_files())


def load(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        ZooError: there is no such entry (with close names), or its file is malformed or of a newer format.
    """
    if name not in _files():
        raise ZooError(f'the zoo has no operator {cell(name, 80)!r}{close_names(name, names())} `syno-nni zoo list` shows all')
    return _read(name)


def find(text: str) -> ZooEntry | None:
    """The entry whose name or operator id is ``text``, if there is one."""
    if text in _files():
        return _read(text)
    return next((entry for name in names() if (entry := _read(name)).operator.id == text), None)


@cache
def files(folder: str) -> dict[str, Any]:
    """The JSON files in a folder of the zoo, by name."""
    return {f.name.removesuffix('.json'): f for f in (resources.files(__package__) / folder).iterdir()
            if f.name.endswith('.json')}


def _files() -> dict[str, Any]:
    return files('operators')


@cache
def _read(name: str) -> ZooEntry:
    return parse_entry(text_of(_files()[name]), f'{name}.json')


def text_of(file: Any) -> str:
    """The text of one of :func:`files`.

    Raises:
        ZooError: it cannot be read.
    """
    with resources.as_file(file) as path:
        return read_text(path, limit=DESCRIPTION_BYTES, error=ZooError, what='the zoo entry')


def parse_entry(text: str, where: str) -> ZooEntry:
    """The entry that a JSON text describes.

    Raises:
        ZooError: it is malformed; names ``where`` and what is wrong.
    """
    data = check_format(text, where, FORMAT)
    file = validated(EntryFile, data, where)
    try:
        operator = Operator.parse(file.formula)
    except SynoError as error:
        raise ZooError(f'{where}: formula: {error}') from None
    if file.id not in (None, operator.id):
        raise ZooError(f'{where}: the formula has id {operator.id}, and the file says {shown(file.id)}')
    return ZooEntry(file.name, operator, file.family, file.source, file.citation, tuple(data.get('published', ())))


_File = TypeVar('_File', bound=Part)


def validated(schema: type[_File], data: Mapping[str, Any], where: str) -> _File:
    """The data of a file, checked against what it should hold.

    Raises:
        ZooError: it is malformed; names ``where`` and what is wrong.
    """
    try:
        return schema.model_validate(dict(data))
    except ValidationError as error:
        raise ZooError(f'{where}: {one_line_of(error, schema)}') from None
    except RecursionError:
        raise ZooError(f'{where}: nested too deeply') from None


def check_format(text: str, where: str, newest: int) -> dict[str, Any]:
    """The JSON object of a text, whose "format" this version reads.

    Raises:
        ZooError: it is no JSON object, or of no known format.
    """
    data = parse_json(text, where, ZooError)
    if not isinstance(data, dict):
        raise ZooError(f'{where}: wanted a JSON object, got {type(data).__name__}')
    check_version(data.get('format'), newest, where, ZooError)
    return data


def close_names(name: str, known: list[str]) -> str:
    """A hint for an error message: the names closest to an unknown one, or just the end of the clause."""
    hint = did_you_mean(name, known, 2, otherwise='')
    return f'; {hint}' if hint else ';'
