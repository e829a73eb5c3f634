"""The experiment file: one YAML that describes a search, with NNI's camelCase keys.

:func:`load_config` reads a file, :func:`SearchConfig.from_dict` a dict; both raise :class:`ConfigError` with one line
that names the key, the value and what is wanted. A file is data: only plain YAML is accepted (no tags, no aliases, no
duplicate keys). :meth:`SearchConfig.to_yaml` prints the resolved form, with every default filled in.
"""
from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from syno_nni.data.config import DataConfig
from syno_nni.errors import ConfigError
from syno_nni.schema import Count, Duration, Fraction, Positive, Section, Text, Weight, Whole, Words

from .candidate import Miss

DEFAULT_CONFIG = 'quickstart.yml'
"""The packaged experiment file (in ``examples/``) that ``syno-nni search`` runs when it gets none."""
MAX_FILE_BYTES = 1 << 20


class ModelConfig(Section):
    """The backbone: a timm model name; every further key goes to ``timm.create_model`` as it stands."""
    model_config = ConfigDict(extra='allow')
    name: Text
    __pydantic_extra__: dict[str, JsonValue]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The extra arguments of ``timm.create_model``."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode='after')
    def _data_decides(self) -> ModelConfig:
        for key, instead in (('num_classes', 'the dataset'), ('in_chans', 'data.channels')):
            if key in self.kwargs:
                raise ValueError(f'{key} comes from {instead}; remove it')
        return self


class SpaceConfig(Section):
    """The operator space: a preset, the allowed MACs relative to the slots' original layers, and the preset's limits.

    ``variables`` overrides coefficients of the bindings (``k_1``, ``k_2``, ``s``, ``g``). ``limits`` are those of
    ``syno_nni.synthesis.limits``, such as ``windowRatio`` or ``maxRank``.
    """
    preset: Text = 'conv2d'
    macs_ratio: tuple[Weight, Positive] = (0.15, 0.9)
    variables: dict[Text, Count] = Field(default_factory=dict)
    limits: dict[Text, JsonValue] = Field(default_factory=dict)

    @field_validator('limits')
    @classmethod
    def _camel_case(cls, limits: dict[str, Any]) -> dict[str, Any]:
        return {to_camel(name): value for name, value in limits.items()}

    @model_validator(mode='after')
    def _ordered(self) -> SpaceConfig:
        low, high = self.macs_ratio
        if low >= high:
            raise ValueError(f'macsRatio wants [low, high] with low < high, got [{low}, {high}]')
        return self


class SlotsConfig(Section):
    """Which layers are slots. ``kinds`` as in ``find_slots``; ``include`` and ``exclude`` are layer-name patterns.

    ``groupBy`` says which slots share one operator: ``model`` (all of them), ``stage``, ``shape``, ``kind``, ``slot``.
    """
    kinds: Words = ('conv3x3',)
    include: Words = ()
    exclude: Words = ()
    min_share: Fraction = 0.0
    group_by: Literal['model', 'stage', 'shape', 'kind', 'slot'] = 'model'


class StrategyConfig(Section):
    """The exploration strategy by name, its seed, and (as NNI calls them) the ``classArgs`` of its class."""
    name: Literal['random', 'evolution', 'mcts'] = 'mcts'
    seed: Whole = 0
    class_args: dict[Text, JsonValue] = Field(default_factory=dict)


class EvaluationConfig(Section):
    """The training recipe that the baseline and every candidate share, and what comes before it.

    ``learningRate`` is the peak of the schedule; ``threads`` the CPU threads of one trial (None: torch's default).

    With ``proxyEpochs`` a short training comes first, on ``proxySamples`` images (None: all). A candidate that is more
    than ``stopBelow`` less accurate than the original model, after the short training or at any epoch of the full one,
    is stopped. None: no candidate is stopped.
    """
    epochs: Count = 3
    proxy_epochs: Whole = 0
    proxy_samples: Count | None = None
    stop_below: Fraction | None = None
    optimizer: Literal['sgd', 'adam', 'adamw'] = 'adamw'
    learning_rate: Positive = 2e-3
    weight_decay: Weight = 0.01
    momentum: Fraction = 0.9
    schedule: Literal['constant', 'cosine', 'onecycle'] = 'onecycle'
    label_smoothing: Fraction = 0.0
    clip_gradient: Positive | None = 5.0
    seed: Whole = 0
    device: Literal['cpu', 'cuda', 'auto'] = 'cpu'
    threads: Count | None = None


class LatencyConfig(Section):
    """How latency is measured: runtime, CPU threads, batch and image size (None: the data's), and for how long.

    Candidate and original take turns for ``seconds``, at least ``minRounds`` times, after ``warmup`` calls of each.
    """
    runtime: Literal['eager', 'inductor', 'onnx', 'openvino'] = 'eager'
    threads: Count = 1
    batch_size: Count = 1
    image_size: Count | None = None
    warmup: Count = 5
    min_rounds: Count = 15
    seconds: Positive = 2.0


class ObjectiveConfig(Section):
    """What ``default``, the number that NNI maximises, is made of (see :meth:`score`), and hard limits.

    A candidate beyond ``maxMacs``, ``maxParams``, ``maxLatencyMs`` or ``minSpeedup`` is rejected before it is trained;
    the first two before a trial is started. They hold for the whole model: multiply-accumulates of one image,
    parameters, milliseconds, times the original model's speed.
    """
    accuracy_weight: Weight = 1.0
    speedup_weight: Weight = 0.05
    max_latency_ms: Positive | None = None
    min_speedup: Positive | None = None
    max_macs: Count | None = None
    max_params: Count | None = None
    min_accuracy: Fraction | None = None

    @model_validator(mode='after')
    def _says_something(self) -> ObjectiveConfig:
        if self.accuracy_weight == self.speedup_weight == 0:
            raise ValueError('accuracyWeight and speedupWeight are both 0: nothing to maximise')
        return self

    def score(self, accuracy: float, latency_ms: float, baseline_latency_ms: float) -> float:
        """``accuracyWeight * accuracy + speedupWeight * log2(speedup)``, less 1 for each limit that is broken.

        The logarithm makes a step from 1x to 2x worth as much as one from 2x to 4x. With the defaults, being twice
        as fast makes up for five points of accuracy.
        """
        score = self.accuracy_weight * accuracy + self.speedup_weight * math.log2(baseline_latency_ms / latency_ms)
        score -= self.max_latency_ms is not None and latency_ms > self.max_latency_ms
        score -= self.min_accuracy is not None and accuracy < self.min_accuracy
        return score

    def too_large(self, macs: float, params: float) -> Miss | None:
        """Why a model of this size is out of bounds, and by how far, or None."""
        for name, value, limit in (('MACs', macs, self.max_macs), ('parameters', params, self.max_params)):
            if limit is not None and value > limit:
                return Miss(f'{value:.0f} {name}, allowed are {limit} '
                            f'(objective.max{"Macs" if name == "MACs" else "Params"})', math.log2(value / limit))
        return None

    def too_slow(self, latency_ms: float, speedup: float) -> Miss | None:
        """Why a model of this speed is out of bounds, and by how far, or None."""
        if self.max_latency_ms is not None and latency_ms > self.max_latency_ms:
            return Miss(f'{latency_ms:.3g} ms, allowed are {self.max_latency_ms:g} (objective.maxLatencyMs)',
                        math.log2(latency_ms / self.max_latency_ms))
        if self.min_speedup is not None and speedup < self.min_speedup:
            return Miss(f'speedup {speedup:.3g}, wanted are {self.min_speedup:g} (objective.minSpeedup)',
                        math.log2(self.min_speedup / speedup))
        return None


class MachineConfig(Section):
    """A machine that trials run on, reached by SSH with a key. ``pythonPath`` is the folder of the Python interpreter
    there, which has syno-nni installed; None: the one that the shell finds."""
    host: Text
    port: Annotated[Count, Field(le=65535)] = 22
    user: Text
    ssh_key_file: Text = '~/.ssh/id_rsa'
    python_path: Text | None = None


class SearchConfig(Section):
    """A whole experiment. Durations are seconds or NNI's notation (``10m``).

    ``engine: sequential`` runs in this process, without NNI's manager; ``local`` uses NNI's local training service
    with its web UI on ``port``; ``remote`` runs the trials on the machines of ``machineList``, which reach NNI's manager
    at ``nniManagerIp``. ``trainingService: {platform: ...}``, as in NNI's files, says the same as ``engine``. ``runDirectory``
    defaults to a new folder in ``runs/``.
    """
    experiment_name: Annotated[Text, Field(max_length=100, pattern=r'^[\w.][\w. -]*$')] = 'search'
    model: ModelConfig
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    slots: SlotsConfig = SlotsConfig()
    strategy: StrategyConfig = StrategyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    latency: LatencyConfig = LatencyConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    engine: Literal['sequential', 'local', 'remote'] = 'local'
    port: Annotated[Count, Field(le=65535)] = 8080
    machine_list: tuple[MachineConfig, ...] = ()
    nni_manager_ip: Text = '127.0.0.1'
    max_trial_number: Count = 12
    max_experiment_duration: Duration | None = None
    max_trial_duration: Duration | None = None
    trial_concurrency: Count = 1
    run_directory: Text | None = None

    @model_validator(mode='after')
    def _has_machines(self) -> SearchConfig:
        if self.engine == 'remote' and not self.machine_list:
            raise ValueError('engine: remote needs machineList, such as [{host: 10.0.0.5, user: me}]')
        return self

    @classmethod
    def from_dict(cls, data: Any, source: str = 'configuration') -> SearchConfig:
        """Check plain data against the schema. ``source`` opens the message of the :class:`ConfigError`."""
        if not isinstance(data, Mapping):
            raise ConfigError(f'{source}: wants a mapping of keys to values, got {_kind(data)}')
        try:
            return cls.model_validate(_with_engine(data, source))
        except ValidationError as error:
            raise ConfigError(f'{source}: {_one_line(error)}') from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data with camelCase keys and every default filled in; :meth:`from_dict` reads it back."""
        return self.model_dump(mode='json', by_alias=True)

    def to_yaml(self) -> str:
        """The resolved experiment file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)

    def replace(self, **changes: Any) -> SearchConfig:
        """A checked copy with some top-level fields (snake_case names) changed."""
        unknown = set(changes) - set(type(self).model_fields)
        if unknown:
            raise TypeError(f'no such field: {", ".join(sorted(unknown))}')
        fields = {to_camel(k): v.model_dump(by_alias=True) if isinstance(v, BaseModel) else v
                  for k, v in changes.items()}
        return self.from_dict(self.to_dict() | fields)

    def identity(self) -> dict[str, Any]:
        """The part that decides results. A run can go on with another budget, engine or port, but not with another
        identity."""
        free = {to_camel(name) for name in _FREE_TO_CHANGE}
        return {key: value for key, value in self.to_dict().items() if key not in free}

    def digest(self) -> str:
        """A short hash of :meth:`identity`, the same on every machine."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: SearchConfig) -> list[str]:
        """How the identity of ``other`` differs from this one's: ``evaluation.epochs: 3 -> 5``."""
        old, new = dict(_leaves(self.identity())), dict(_leaves(other.identity()))
        return [f'{key}: {_show(old.get(key))} -> {_show(new.get(key))}'
                for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


_FREE_TO_CHANGE = ('engine', 'port', 'max_trial_number', 'max_experiment_duration', 'max_trial_duration',
                   'trial_concurrency', 'run_directory', 'machine_list', 'nni_manager_ip')


def load_config(path: str | Path | None = None) -> SearchConfig:
    """Read an experiment file; None reads the packaged default.

    Raises:
        ConfigError: the file is missing, is no plain YAML, or breaks the schema.
    """
    if path is None:
        text = resources.files('syno_nni.examples').joinpath(DEFAULT_CONFIG).read_text(encoding='utf-8')
        return SearchConfig.from_dict(parse_yaml(text, DEFAULT_CONFIG), DEFAULT_CONFIG)
    data = load_yaml(path)
    if is_nnictl_file(data):
        raise ConfigError(f'{path}: this file is for nnictl: syno-nni nnictl create --config {path}')
    return SearchConfig.from_dict(data, str(path))


def load_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        ConfigError: the file is missing, or is no plain YAML.
    """
    return parse_yaml(_read(Path(path)), str(path))


def is_nnictl_file(data: Any) -> bool:
    """Whether plain data looks like a file for ``nnictl create`` and not for ``syno-nni search``."""
    return isinstance(data, Mapping) and bool({'tuner', 'trialCommand'} & data.keys())


def _with_engine(data: Mapping[Any, Any], source: str) -> dict[Any, Any]:
    """``trainingService``, as NNI's files have it, in our words: ``engine`` and ``machineList``."""
    if 'trainingService' not in data:
        return dict(data)
    service = data['trainingService']
    platform = service.get('platform') if isinstance(service, Mapping) else None
    if platform not in ('local', 'remote'):
        raise ConfigError(f'{source}: trainingService: wants {{platform: local}} or {{platform: remote, machineList: [...]}}, '
                          f'got {_show(service)}')
    for key in service:
        if key not in ('platform', 'machineList'):
            close = difflib.get_close_matches(str(key), ('platform', 'machineList'), n=1, cutoff=0.6)
            hint = f"did you mean '{close[0]}'?" if close else 'choose from platform, machineList'
            raise ConfigError(f"{source}: unknown key {_show(f'trainingService.{key}')}; {hint}")
    ours = {'engine': platform, **({'machineList': service['machineList']} if 'machineList' in service else {})}
    for key, value in ours.items():
        if data.get(key, value) != value:
            raise ConfigError(f'{source}: {key} and trainingService disagree; leave one of them out')
    return {**{key: value for key, value in data.items() if key != 'trainingService'}, **ours}


def parse_yaml(text: str, source: str) -> Any:
    """Plain data from YAML text: no tags, aliases or duplicate keys. ``source`` opens every error message."""
    try:
        return _PlainLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''
        raise ConfigError(f'{source}{where}: {error.problem or error.context}') from None
    except yaml.YAMLError as error:
        raise ConfigError(f'{source}: not YAML: {" ".join(str(error).split())}') from None
    except RecursionError:
        raise ConfigError(f'{source}: nested too deeply') from None
    except ValueError as error:  # a date or an integer that Python cannot hold
        raise ConfigError(f'{source}: {error}') from None


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases (so that no file can expand in memory) and without silently repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f'aliases (*{event.anchor}) are not supported: write the value out',
                                       problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem='a key must be a single word', problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'key {key.value!r} stands twice', problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> str:
    try:
        with path.open('rb') as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f'cannot read the experiment file {path}: {error.strerror or error}') from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f'{path}: larger than {MAX_FILE_BYTES} bytes, which is no experiment file')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: not UTF-8 text (byte {error.start})') from None


# --- error messages --------------------------------------------------------------------------------------------------

def _one_line(error: ValidationError) -> str:
    messages: dict[str, None] = {}
    for item in error.errors(include_url=False):
        messages[_message(item)] = None
    shown = list(messages)[:5]
    if len(messages) > 5:
        shown.append(f'and {len(messages) - 5} more')
    return '; '.join(shown)


def _message(item: Any) -> str:
    path = item['loc']
    where = '.'.join(str(part) if str(part).isprintable() else repr(part) for part in path)
    if item['type'] == 'extra_forbidden':
        known = [to_camel(name) for name in _section_at(path[:-1]).model_fields]
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
        hint = f"did you mean '{close[0]}'?" if close else f'choose from {", ".join(known)}'
        return f"unknown key '{where}'; {hint}"
    if item['type'] == 'missing':
        return f"key '{where}' is missing"
    wanted = _WANTED.get(item['type']) or item['msg'].removeprefix('Value error, ').removeprefix('Input ')
    if item['type'] == 'value_error' and isinstance(item['input'], Mapping | BaseModel):
        return f'{where}: {wanted}' if where else wanted
    hint = ''
    if item['type'] == 'literal_error' and isinstance(item['input'], str):
        choices = re.findall(r"'([^']*)'", item['ctx']['expected'])
        close = difflib.get_close_matches(item['input'], choices, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ''
    return f'{where}: {wanted}, got {_show(item["input"])}{hint}'


_WANTED = {
    'model_type': 'should be a mapping of keys to values', 'dict_type': 'should be a mapping of keys to values',
    'tuple_type': 'should be a list', 'string_type': 'should be text',
    'string_pattern_mismatch': 'should be letters, digits, spaces, dots and dashes',
}


def _section_at(path: tuple[Any, ...]) -> type[BaseModel]:
    section: type[BaseModel] = SearchConfig
    for part in path:
        if isinstance(part, int):  # an item of machineList
            section = MachineConfig
            continue
        annotation = next(f.annotation for name, f in section.model_fields.items() if part in (name, to_camel(name)))
        section = annotation  # type: ignore[assignment]
    return section


def _leaves(data: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, data


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _kind(value: Any) -> str:
    return 'nothing' if value is None else f'{type(value).__name__} {_show(value)}'
