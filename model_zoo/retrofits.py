"""The zoo's retrofitted models: JSON files in ``models/``, each a backbone, what fills its slots, and the evidence.

A file holds no code and no weights::

    {"format": 1, "name": "resnet18_syno_07754", "base": "resnet18", "base_args": {}, "input_size": [3, 224, 224],
     "kinds": ["conv3x3", "pointwise"], "fill": {"conv3x3": "syno_resnet_07754"}, "coefficients": {"g": 32},
     "claims": [{"speedup": 2.1, "runtime": "openvino", ...}]}

``fill`` maps kinds, patterns or names of slots to operators of the zoo, or to formulas. A claim says what was measured
and where; ``syno-nni zoo verify`` measures it again.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from syno_nni.errors import SynoError, ZooError
from syno_nni.operator import Operator

from .entries import FORMAT, check_format, close_names, files, load


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
_TEXTS = {'name': True, 'base': True, 'tag': False, 'weights': False, 'notes': False}


def retrofit_names() -> list[str]:
    """The names of all retrofitted models, sorted; each is a name for ``timm.create_model``."""
    return sorted(_files())


def load_retrofit(name: str) -> Retrofit:
    """The retrofitted model of a name.

    Raises:
        ZooError: there is none (with close names), or its file is malformed or of a newer format.
    """
    if name not in _files():
        raise ZooError(f'the zoo has no retrofitted model {name!r:.80}{close_names(name, retrofit_names())} '
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
    for key, needed in _TEXTS.items():
        if not isinstance(data.get(key, None if needed else ''), str):
            raise ZooError(f'{where}: "{key}" must be text, got {data.get(key)!r:.40}')
    if '/' in data.get('weights', '') or '\\' in data.get('weights', ''):
        raise ZooError(f'{where}: "weights" must be a file name without folders, got {data["weights"]!r:.80}')
    fill = data.get('fill')
    if not isinstance(fill, dict) or not fill or not all(isinstance(v, str) for v in fill.values()):
        raise ZooError(f'{where}: "fill" must map slots to operators, got {fill!r:.80}')
    for key in ('base_args', 'coefficients'):
        if not isinstance(data.get(key, {}), dict):
            raise ZooError(f'{where}: "{key}" must be an object, got {data[key]!r:.40}')
    claims = data.get('claims', [])
    if not isinstance(claims, list) or not all(isinstance(c, dict) for c in claims):
        raise ZooError(f'{where}: "claims" must be a list of objects')
    for claim in claims:
        speedup = claim.get('speedup', 1.0)
        if isinstance(speedup, bool) or not isinstance(speedup, (int, float)) or not speedup > 0:
            raise ZooError(f'{where}: a claimed "speedup" must be a positive number, got {speedup!r:.40}')
        if 'speedup' in claim and not isinstance(claim.get('runtime'), str):
            raise ZooError(f'{where}: a claimed speedup needs its "runtime", got {claim.get("runtime")!r:.40}')
    size = data.get('input_size')
    if size is not None and (not isinstance(size, list) or len(size) != 3 or
                             not all(isinstance(n, int) and n > 0 for n in size)):
        raise ZooError(f'{where}: "input_size" must be [channels, height, width], got {size!r:.40}')
    for key in ('mean', 'std'):
        if not isinstance(data.get(key, 1.0), (int, float)) or isinstance(data.get(key), bool):
            raise ZooError(f'{where}: "{key}" must be a number, got {data[key]!r:.40}')
    kinds = data.get('kinds')
    if kinds is not None and (not isinstance(kinds, list) or not all(isinstance(k, str) for k in kinds)):
        raise ZooError(f'{where}: "kinds" must be a list of kinds of slots, got {kinds!r:.40}')
    try:
        for name in set(fill.values()) - {'keep'}:
            resolve(name)
    except SynoError as error:
        raise ZooError(f'{where}: "fill": {error}') from None
    return Retrofit(
        data['name'], data['base'], fill, data.get('base_args', {}), tuple(size) if size else None,
        tuple(kinds) if kinds is not None else None, data.get('coefficients', {}), data.get('tag', 'untrained'),
        data.get('weights', ''), data.get('notes', ''), data.get('mean'), data.get('std'), tuple(claims))


def is_name(text: str) -> bool:
    """Whether a text is a name of the zoo rather than a formula."""
    return '[' not in text


def _files() -> dict[str, Any]:
    return files('models')


@cache
def _read(name: str) -> Retrofit:
    entry = parse_retrofit(_files()[name].read_text(encoding='utf-8'), f'models/{name}.json')
    if entry.name != name:
        raise ZooError(f'models/{name}.json: "name" must be {name}, got {json.dumps(entry.name)[:80]}')
    return entry
