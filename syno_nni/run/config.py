"""The experiment file: one YAML that describes a search, with NNI's camelCase keys.

:func:`load_config` reads a file, :func:`SearchConfig.from_dict` a dict; both raise :class:`ConfigError` with one line
that names the key, the value and what is wanted. A file is data: only plain YAML is accepted (no tags, no aliases, no
duplicate keys). :meth:`SearchConfig.to_yaml` prints the resolved form, with every default filled in.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel, to_snake

from syno_nni.data.config import DataConfig
from syno_nni.errors import ConfigError, SynoError
from syno_nni.files import show_path
from syno_nni.measure import RuntimeName
from syno_nni.schema import (
    Count,
    Duration,
    Fraction,
    Free,
    FunctionName,
    MaybeText,
    PathText,
    Positive,
    Section,
    Text,
    Weight,
    Whole,
    Words,
)
from syno_nni.synthesis.limits import Heuristics, Limits
from syno_nni.synthesis.presets import PRESETS
from syno_nni.text import did_you_mean

from .objective import ObjectiveConfig
from .wording import kind, one_line_of, show
from .yaml_file import dump_yaml, load_yaml, parse_yaml

__all__ = ['DataConfig', 'ObjectiveConfig', 'SearchConfig', 'load_config', 'load_yaml', 'parse_yaml']

DEFAULT_CONFIG = 'quickstart.yml'
"""The packaged experiment file (in ``examples/``) that ``syno-nni search`` runs when it gets none."""


class ModelConfig(Section):
    """The model: the ``name`` of one of timm's, or ``factory: 'module:function'``, a function of the user's that returns a
    module. Every further key goes to ``timm.create_model``, or to the function, as it stands.

    ``checkpoint`` is a file of its trained weights (safetensors, or a state dict of torch's).
    """
    model_config = ConfigDict(extra='allow')
    name: MaybeText = ''
    factory: FunctionName | None = None
    checkpoint: PathText | None = None
    __pydantic_extra__: dict[str, Free]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The extra arguments of ``timm.create_model`` or of the function."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def title(self) -> str:
        """What people call it: the name, or the function's."""
        return self.name or (self.factory or '').rpartition(':')[2]

    @property
    def has_weights(self) -> bool:
        """Whether the file says where trained weights come from; a function may return a trained model all the same."""
        return bool(self.checkpoint or self.kwargs.get('pretrained')
                    or self.name.startswith(('local-dir:', 'hf-hub:', 'hf_hub:')))

    @model_validator(mode='after')
    def _one_source(self) -> ModelConfig:
        if not self.name and self.factory is None:
            raise ValueError("give the name of a timm model, or factory: 'module:function'")
        if self.name and self.factory is not None:
            raise ValueError('name and factory say two things; leave one of them out')
        return self

    @model_validator(mode='after')
    def _data_decides(self) -> ModelConfig:
        if self.factory is not None:
            return self
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
    macs_ratio: tuple[Weight, Annotated[Positive, Field(le=1000)]] = (0.15, 0.9)
    variables: dict[Text, Annotated[Count, Field(le=4096)]] = Field(default_factory=dict)
    limits: dict[Text, Free] = Field(default_factory=dict)

    @field_validator('preset')
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f'there is no such preset; {did_you_mean(preset, PRESETS)}')
        return preset

    @field_validator('variables')
    @classmethod
    def _coefficients(cls, variables: dict[str, int]) -> dict[str, int]:
        known = list(dict.fromkeys(v.name for preset in PRESETS.values() for v in preset.variables if not v.primary))
        for name in variables:
            if name not in known:
                raise ValueError(f'{show(name)} is no coefficient of an operator; {did_you_mean(name, known)}')
        return variables

    @field_validator('limits')
    @classmethod
    def _camel_case(cls, limits: dict[str, Any]) -> dict[str, Any]:
        given = {to_camel(name): value for name, value in limits.items()}
        if len(given) < len(limits):
            raise ValueError('one limit stands twice')
        _check_limits(given)
        return given

    @model_validator(mode='after')
    def _ordered(self) -> SpaceConfig:
        low, high = self.macs_ratio
        if low >= high:
            raise ValueError(f'macsRatio wants [low, high] with low < high, got [{low}, {high}]')
        return self


def _check_limits(limits: Mapping[str, Any]) -> None:
    """Raise ValueError unless these limits, by their camelCase names, are ones that a space can have."""
    defaults = {to_camel(f.name): f.default for f in (*fields(Limits), *fields(Heuristics)) if f.name != 'heuristics'}
    heuristics = {to_camel(f.name) for f in fields(Heuristics)}
    for name, value in limits.items():
        if name not in defaults:
            raise ValueError(f'there is no limit {show(name)}; {did_you_mean(name, defaults)}')
        wanted: Any = type(defaults[name])
        if isinstance(value, bool) != (wanted is bool) or not isinstance(value, (int, wanted)):
            raise ValueError(f'{name} should be {_WORDS_OF[wanted]}, got {show(value)}')
        if name in heuristics and not isinstance(value, bool) and not 0 <= value <= 2 ** 31:
            raise ValueError(f'{name} should be at least 0 and at most {2 ** 31}, got {show(value)}')
    try:
        Limits().updated({to_snake(name): value for name, value in limits.items()})
    except SynoError as error:
        raise ValueError(str(error)) from None


_WORDS_OF: dict[Any, str] = {bool: 'true or false', int: 'a whole number', float: 'a number'}


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
    """The exploration strategy by name, its seed, and (as NNI calls them) the ``classArgs`` of its class. Names with a capital
    letter are strategies of NNI."""
    name: Literal['random', 'evolution', 'mcts',
                  'Random', 'GridSearch', 'RegularizedEvolution', 'TPE', 'PolicyBasedRL'] = 'mcts'
    seed: Whole = 0
    class_args: dict[Text, Free] = Field(default_factory=dict)

    @field_validator('name', mode='before')
    @classmethod
    def _not_one_shot(cls, name: object) -> object:
        if name in ('DARTS', 'Proxyless', 'GumbelDARTS', 'ENAS', 'RandomOneShot'):
            raise ValueError(f'{name} trains one network that holds all choices at once, and operators are too many and share '
                             'no weights; choose mcts, evolution, or RegularizedEvolution of NNI')
        return name


class EvaluationConfig(Section):
    """How candidates are evaluated.

    ``mode: retrofit`` starts from the weights that the model has: operators are fitted to the layers they replace, and the
    assembled model is healed by distillation from the original for ``healSteps`` batches; the few that come near the wanted
    accuracy are healed for ``finalSteps`` more. ``screenOperators`` are looked at before. With a ``maxExperimentDuration`` all
    of these are made to fit it. A model without weights is trained first, by the recipe below. ``mode: scratch`` trains every
    candidate by the recipe. By default it is retrofit where the file says where weights come from.

    The rest is the training recipe that the baseline and every candidate share in ``scratch``, and what comes before it.

    ``learningRate`` is the peak of the schedule; ``threads`` the CPU threads of one trial (None: torch's default).

    With ``proxyEpochs`` a short training comes first, on ``proxySamples`` images (None: all). A candidate that is more
    than ``stopBelow`` less accurate than the original model, after the short training or at any epoch of the full one,
    is stopped. None: no candidate is stopped.
    """
    epochs: Annotated[Count, Field(le=10 ** 6)] = 3
    proxy_epochs: Annotated[Whole, Field(le=10 ** 6)] = 0
    proxy_samples: Count | None = None
    stop_below: Fraction | None = None
    optimizer: Literal['sgd', 'adam', 'adamw'] = 'adamw'
    learning_rate: Annotated[Positive, Field(le=1e4)] = 2e-3
    weight_decay: Annotated[Weight, Field(le=1e4)] = 0.01
    momentum: Fraction = 0.9
    schedule: Literal['constant', 'cosine', 'onecycle'] = 'onecycle'
    label_smoothing: Fraction = 0.0
    clip_gradient: Annotated[Positive, Field(le=1e9)] | None = 5.0
    seed: Whole = 0
    device: Literal['cpu', 'cuda', 'auto'] = 'cpu'
    threads: Annotated[Count, Field(le=4096)] | None = None
    mode: Literal['auto', 'retrofit', 'scratch'] = 'auto'
    heal_steps: Annotated[Count, Field(le=10 ** 8)] = 200
    final_steps: Annotated[Count, Field(le=10 ** 8)] = 2000
    heal_learning_rate: Annotated[Positive, Field(le=1e4)] = 0.02
    screen_operators: Annotated[Count, Field(le=10 ** 8)] = 400


class LatencyConfig(Section):
    """How latency is measured: runtime, CPU threads, batch and image size (None: the data's), and for how long.

    Candidate and original take turns for ``seconds``, at least ``minRounds`` times, after ``warmup`` calls of each.
    """
    runtime: RuntimeName = 'eager'
    threads: Annotated[Count, Field(le=4096)] = 1
    batch_size: Annotated[Count, Field(le=65536)] = 1
    image_size: Annotated[Count, Field(le=4096)] | None = None
    warmup: Annotated[Count, Field(le=10 ** 6)] = 5
    min_rounds: Annotated[Count, Field(le=10 ** 6)] = 15
    seconds: Annotated[Positive, Field(le=86400)] = 2.0


class MachineConfig(Section):
    """A machine that trials run on, reached by SSH with a key. ``pythonPath`` is the folder of the Python interpreter
    there, which has syno-nni installed; None: the one that the shell finds."""
    host: Text
    port: Annotated[Count, Field(le=65535)] = 22
    user: Text
    ssh_key_file: PathText = '~/.ssh/id_rsa'
    python_path: PathText | None = None


class SearchConfig(Section):
    """A whole experiment. Durations are seconds or NNI's notation (``10m``).

    ``engine: sequential`` runs in this process, without NNI's manager; ``local`` uses NNI's local training service
    with its web UI on ``port``; ``remote`` runs the trials on the machines of ``machineList``, which reach NNI's manager
    at ``nniManagerIp``. ``trainingService: {platform: ...}``, as in NNI's files, says the same as ``engine``. ``runDirectory``
    defaults to a new folder in ``runs/``. ``trialCodeDirectory`` is where the modules that ``factory`` names are looked for: by
    default the folder of the file.
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
    max_trial_number: Annotated[Count, Field(le=10 ** 7)] = 12
    max_experiment_duration: Duration | None = None
    max_trial_duration: Duration | None = None
    trial_concurrency: Annotated[Count, Field(le=4096)] = 1
    run_directory: PathText | None = None
    trial_code_directory: PathText | None = None

    @property
    def retrofits(self) -> bool:
        """Whether candidates start from the weights that the model has."""
        mode = self.evaluation.mode
        return mode == 'retrofit' or (mode == 'auto' and self.model.has_weights)

    @model_validator(mode='after')
    def _has_machines(self) -> SearchConfig:
        if self.engine == 'remote' and not self.machine_list:
            raise ValueError('engine: remote needs machineList, such as [{host: 10.0.0.5, user: me}]')
        return self

    @classmethod
    def from_dict(cls, data: Any, source: str = 'configuration') -> SearchConfig:
        """Check plain data against the schema. ``source`` opens the message of the :class:`ConfigError`."""
        if not isinstance(data, Mapping):
            raise ConfigError(f'{source}: wants a mapping of keys to values, got {kind(data)}')
        try:
            return cls.model_validate(_with_engine(data, source))
        except ValidationError as error:
            raise ConfigError(f'{source}: {one_line_of(error, cls)}') from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data with camelCase keys and every default filled in; :meth:`from_dict` reads it back."""
        return self.model_dump(mode='json', by_alias=True)

    def to_yaml(self) -> str:
        """The resolved experiment file."""
        return dump_yaml(self.to_dict())

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
        return [f'{key}: {show(old.get(key))} -> {show(new.get(key))}'
                for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


_FREE_TO_CHANGE = ('engine', 'port', 'max_trial_number', 'max_experiment_duration', 'max_trial_duration',
                   'trial_concurrency', 'run_directory', 'machine_list', 'nni_manager_ip', 'trial_code_directory')


def load_config(path: str | Path | None = None) -> SearchConfig:
    """Read an experiment file; None reads the packaged default.

    Raises:
        ConfigError: the file is missing, is no plain YAML, or breaks the schema.
    """
    if path is None:
        text = resources.files('syno_nni.examples').joinpath(DEFAULT_CONFIG).read_text(encoding='utf-8')
        return SearchConfig.from_dict(parse_yaml(text, DEFAULT_CONFIG), DEFAULT_CONFIG)
    data, source = load_yaml(path), show_path(path)
    if is_nnictl_file(data):
        raise ConfigError(f'{source}: this file is for nnictl: syno-nni nnictl create --config {source}')
    return _at_home(SearchConfig.from_dict(data, source), Path(path).absolute().parent)


def _at_home(config: SearchConfig, folder: Path) -> SearchConfig:
    """The configuration with the paths that mean the file's folder written out."""
    changes: dict[str, Any] = {}
    if config.trial_code_directory is None and (config.model.factory or config.data.factory):
        changes['trial_code_directory'] = str(folder)
    elif config.trial_code_directory is not None:
        changes['trial_code_directory'] = str(folder / Path(config.trial_code_directory).expanduser())
    if config.model.checkpoint is not None:
        beside = folder / Path(config.model.checkpoint).expanduser()
        changes['model'] = config.model.model_copy(update={'checkpoint': str(beside)})
    return config.replace(**changes) if changes else config


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
                          f'got {show(service)}')
    for key in service:
        if key not in ('platform', 'machineList'):
            hint = did_you_mean(key, ('platform', 'machineList'))
            raise ConfigError(f"{source}: unknown key {show(f'trainingService.{key}')}; {hint}")
    ours = {'engine': platform, **({'machineList': service['machineList']} if 'machineList' in service else {})}
    for key, value in ours.items():
        if data.get(key, value) != value:
            raise ConfigError(f'{source}: {key} and trainingService disagree; leave one of them out')
    return {**{key: value for key, value in data.items() if key != 'trainingService'}, **ours}


def _leaves(data: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, data
