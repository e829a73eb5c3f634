"""The zoo's retrofitted models: JSON files in ``models/``, each a backbone, what fills its slots, and the evidence.

A file holds no code and no weights::

    {"format": 1, "name": "resnet18_syno_07754", "base": "resnet18", "base_args": {}, "input_size": [3, 224, 224],
     "kinds": ["conv3x3", "pointwise"], "fill": {"conv3x3": "syno_resnet_07754"}, "coefficients": {"g": 32},
     "claims": [{"speedup": 2.1, "runtime": "openvino", ...}]}

``fill`` maps kinds, patterns or names of slots to operators of the zoo, or to formulas. A claim says what was measured
and where; ``syno-nni zoo verify`` measures it again.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any

from pydantic import Field, JsonValue, StringConstraints, model_validator

from syno_nni.errors import SynoError, ZooError, shown
from syno_nni.operator import Operator
from syno_nni.text import cell

from .entries import FORMAT, Line, Name, Part, Ratio, Share, check_format, close_names, files, load, text_of, validated

_Count = Annotated[int, Field(ge=1, le=2 ** 20)]
_Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
# Lengths as such: a bounded repetition in the pattern takes a tenth of a second to compile.
_Architecture = Annotated[str, StringConstraints(pattern=r'^[\w.]+$', max_length=200)]
_FileName = Annotated[str, StringConstraints(pattern=r'^([\w-][\w.-]*)?$', max_length=201)]


class Claim(Part):
    """What was measured, and where: a speedup in a runtime, or an accuracy on a dataset."""
    speedup: Ratio | None = None
    speedup_low: Ratio | None = None
    speedup_high: Ratio | None = None
    runtime: Name | None = None
    threads: _Count | None = None
    input: Annotated[list[_Count], Field(max_length=8)] | None = None
    precision: Name | None = None
    latency_ms: _Milliseconds | None = None
    baseline_latency_ms: _Milliseconds | None = None
    noisy: bool | None = None
    cpu: Line | None = None
    date: Line | None = None
    accuracy: Annotated[list[Share], Field(max_length=100)] | Share | None = None
    baseline_accuracy: Annotated[list[Share], Field(max_length=100)] | Share | None = None
    dataset: Line | None = None
    split: Line | None = None
    recipe: Line | None = None
    seeds: Annotated[list[int], Field(max_length=100)] | None = None

    @model_validator(mode='after')
    def _of_a_runtime(self) -> Claim:
        if self.speedup is not None and self.runtime is None:
            raise ValueError('a claimed speedup needs its runtime')
        return self


class RetrofitFile(Part):
    """What a file in ``models/`` holds."""
    format: int
    name: Name
    base: _Architecture
    fill: Annotated[dict[str, str], Field(min_length=1, max_length=10_000)]
    base_args: dict[str, JsonValue] = Field(default_factory=dict)
    input_size: Annotated[list[_Count], Field(min_length=3, max_length=3)] | None = None
    kinds: list[Name] | None = None
    coefficients: dict[str, Annotated[int, Field(ge=1, le=4096)] | Name] = Field(default_factory=dict)
    tag: Annotated[str, StringConstraints(pattern=r'^[\w.-]+$', max_length=100)] = 'untrained'
    weights: _FileName = ''
    notes: Line = ''
    mean: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    std: Annotated[float, Field(gt=0, le=1e6)] | None = None
    claims: list[Claim] = Field(default_factory=list)


@dataclass(frozen=True)
class Retrofit:
    """A backbone, what fills its slots, and what is known about it.

    ``fill`` maps slot kinds, patterns or names to names of zoo operators, formulas or ``'keep'``. ``claims`` are
    measured, each with its conditions; ``weights`` is the file name of trained weights beside the description, or '', and
    ``mean`` and ``std`` are what pixels were normalized with for them, where not by timm's default.
    """

    name: str
    base: str
    fill: Mapping[str, str]
    base_args: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    tag: str = 'untrained'
    weights: str = ''
    notes: str = ''
    mean: float | None = None
    std: float | None = None
    claims: tuple[Mapping[str, Any], ...] = ()

    @property
    def operators(self) -> list[str]:
        """The names (or formulas) of what fills slots, each once."""
        return [name for name in dict.fromkeys(self.fill.values()) if name != 'keep']

    def fillings(self) -> dict[str, Operator | str]:
        """What :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` takes."""
        return {key: name if name == 'keep' else resolve(name) for key, name in self.fill.items()}

    def published(self) -> list[dict[str, Any]]:
        """The numbers that others published for this backbone with one of the operators."""
        return [{'operator': name, **numbers} for name in self.operators if is_name(name)
                for numbers in load(name).published if numbers.get('model') == _PUBLISHED_AS.get(self.base, self.base)]

    def cfg(self) -> dict[str, Any]:
        """What the retrofit changes in timm's declaration of its base."""
        changes: dict[str, Any] = {'paper_name': 'Syno: Structured Synthesis for Neural Operators', 'license': None,
                                   'origin_url': None, 'paper_ids': None}
        if self.input_size:
            changes['input_size'] = self.input_size
        if 'num_classes' in self.base_args:
            changes['num_classes'] = self.base_args['num_classes']
        changes |= {key: (value,) * 3 for key, value in (('mean', self.mean), ('std', self.std)) if value is not None}
        if self.weights:
            changes['file'] = str(resources.files(__package__) / 'models' / self.weights)
        return changes


_PUBLISHED_AS = {'tf_efficientnetv2_s': 'efficientnet_v2_s'}
"""timm's name to the publication's, where they differ."""


def retrofit_names() -> list[str]:
    """The names of all retrofitted models, sorted; each is a name for ``timm.create_model``."""
    return sorted(_files())


def load_retrofit(name: str) -> Retrofit:
    """The retrofitted model of a name.

    Raises:
        ZooError: there is none (with close names), or its file is malformed or of a newer format.
    """
    if name not in _files():
        raise ZooError(f'the zoo has no retrofitted model {cell(name, 80)!r}{close_names(name, retrofit_names())} '
                       '`syno-nni zoo list` shows all')
    return _read(name)


def resolve(text: str) -> Operator:
    """The operator of a zoo name or a formula."""
    return load(text).operator if is_name(text) else Operator.parse(text)


def parse_retrofit(text: str, where: str) -> Retrofit:
    """The retrofitted model that a JSON text describes; nothing is built or loaded.

    Raises:
        ZooError: it is malformed; names ``where`` and what is wrong.
    """
    data = check_format(text, where, FORMAT)
    file = validated(RetrofitFile, data, where)
    for name in set(file.fill.values()) - {'keep'}:
        try:
            resolve(name)
        except SynoError as error:
            raise ZooError(f'{where}: fill: {error}') from None
    return Retrofit(
        file.name, file.base, file.fill, file.base_args, tuple(file.input_size) if file.input_size else None,
        tuple(file.kinds) if file.kinds is not None else None, file.coefficients, file.tag, file.weights, file.notes, file.mean,
        file.std, tuple(data.get('claims', ())))


def is_name(text: str) -> bool:
    """Whether a text is a name of the zoo rather than a formula."""
    return '[' not in text


def _files() -> dict[str, Any]:
    return files('models')


@cache
def _read(name: str) -> Retrofit:
    entry = parse_retrofit(text_of(_files()[name]), f'models/{name}.json')
    if entry.name != name:
        raise ZooError(f'models/{name}.json: name: should be {name}, got {shown(entry.name)}')
    return entry
