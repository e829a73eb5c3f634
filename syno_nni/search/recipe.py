"""A retrofit from start to finish: a model, what fills its slots, weights to start from, and the evidence.

What ``syno-nni retrofit`` does, for programs:

>>> recipe = Recipe('resnet18', fill={'conv3x3': classics.operator_2()}, weights=Weights(pretrained=True))
>>> done = make_retrofit(recipe)
>>> done.evidence['change'], done.evidence['latency']
>>> done.save('resnet18-fast')
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import syno_nni.model_zoo as model_zoo
from syno_nni.backbone import create_backbone
from syno_nni.data.config import DataConfig
from syno_nni.data.datasets import Splits, load_data
from syno_nni.errors import ConfigError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.latency import measure, measure_pair
from syno_nni.measure.onnx import export_onnx
from syno_nni.model_zoo.card import folder_card
from syno_nni.model_zoo.evidence import change, latencies, versions
from syno_nni.model_zoo.folder import ONNX
from syno_nni.nas.training import accuracy
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.per_slot import Budget, Choice, choose_per_slot
from syno_nni.search_spaces.retrofit.retrofit import assign, retrofit, slot_config
from syno_nni.search_spaces.retrofit.warm_start import warm_start
from syno_nni.search_spaces.selection import KEEP, Selection, kinds_for
from syno_nni.search_spaces.slots import Slot
from syno_nni.weights import load_weights

from .from_run import RunChoice, choice_of_run

BATCH = 64
"""Images in a batch of fitting and distillation."""


@dataclass(frozen=True)
class Weights:
    """Where the operators' weights come from.

    Attributes:
        checkpoint: file of the original's weights (safetensors, or a torch file without code in it).
        pretrained: take timm's weights, a download.
        data: images to fit the operators on, to train and to test with; None fits kernels only.
        steps: of distillation from the original, in batches of 64.
        learning_rate: of the distillation, at its start.
        losses: of the distillation.
    """
    checkpoint: Path | None = None
    pretrained: bool = False
    data: DataConfig | None = None
    steps: int = 0
    learning_rate: float = 0.02
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f'steps must be at least 0, got {self.steps}')
        if self.steps and self.data is None:
            raise ConfigError('steps of distillation train on images: add --data (in Python, data=DataConfig(...))')
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f'the learning rate must be a positive number, got {self.learning_rate}')


@dataclass(frozen=True)
class Evidence:
    """How latency is measured: in which runtimes, with how many CPU threads (None: all), for how many seconds each."""
    runtimes: Sequence[str] = ('eager',)
    threads: int | None = None
    seconds: float = 3.0

    def __post_init__(self) -> None:
        for name in self.runtimes:
            if name not in RUNTIMES:
                raise ConfigError(f'unknown runtime {name!r:.40}; choose from {", ".join(RUNTIMES)}')
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f'the seconds of measuring must be a positive number, got {self.seconds}')


@dataclass(frozen=True)
class Recipe:
    """A model and what goes into it: ``fill``, or ``budget``, or ``run``.

    Attributes:
        model: name of a timm model; by default that of ``run``.
        fill: operators by slot name, name pattern (``'*'`` for all) or kind, see
            :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit`.
        budget: choose an operator, or the original layer, per group of slots: what loses least within a latency, or is
            fastest within a loss.
        candidates: with a budget, the operators to choose from; by default the zoo's and the classic ones.
        run: directory of a search: its best operator goes into the slots that it searched for.
        candidate: beginning of the id of another candidate of the run.
        selection: which layers are slots. Where it leaves ``kinds`` at ``'auto'``, kinds that ``fill`` names are wanted too.
            Not with ``run``, which has its own.
        num_classes: of the model.
        channels: of the image.
        image_size: height and width in pixels; by default the data's, or what the model declares.
        weights: what the operators start from.
        measure: how latency is measured.

    Raises:
        ConfigError: there is nothing to fill the slots with, or more than one of the three ways.
    """
    model: str = ''
    fill: Mapping[str, Operator | str] = field(default_factory=dict)
    budget: Budget | None = None
    candidates: Sequence[Operator] = ()
    run: Path | None = None
    candidate: str = ''
    selection: Selection = field(default_factory=lambda: Selection(group_by='shape'))
    num_classes: int | None = None
    channels: int | None = None
    image_size: int | None = None
    weights: Weights = field(default_factory=Weights)
    measure: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        if self.run and (self.fill or self.candidates or self.budget):
            raise ConfigError('a run brings its operator: leave out operators and the budget (--operator, --budget)')
        if not (self.run or self.fill or self.budget):
            raise ConfigError('what goes into the slots? give operators, a run or a budget (--operator, --from-run or '
                              '--budget); `syno-nni zoo` lists operators')
        if self.budget and self.fill:
            raise ConfigError('with a budget, operators are candidates for all slots: give them as such, without slots')
        if self.candidates and not self.budget:
            raise ConfigError('candidates are chosen from within a budget: add one, or say what they fill')
        if self.candidate and not self.run:
            raise ConfigError('a candidate is of a run: add it (--from-run RUN_DIR)')


@dataclass(frozen=True)
class Retrofitted:
    """What :func:`make_retrofit` made.

    Attributes:
        original: the model before.
        model: the model after, in evaluation mode.
        base: its timm architecture.
        example: an input, [1, channels, height, width].
        slots: the slots that there were, filled or kept.
        evidence: JSON-able facts: ``change`` (MACs and parameters of both), ``weights``, ``slot_error``, ``accuracy``,
            ``latency`` per runtime, ``run``, ``versions``.
        choice: what was chosen from, with a budget.
    """
    original: nn.Module
    model: nn.Module
    base: str
    example: Tensor
    slots: list[Slot]
    evidence: dict[str, Any]
    choice: Choice | None = None

    def save(self, folder: str | Path | None = None, *, onnx: bool = False) -> Path:
        """Write the folder that ``timm.create_model('local-dir:...')`` loads, with a model card.

        Args:
            folder: by default, the base's name and ``-syno``.
            onnx: write ``model.onnx`` too, with a free batch size.

        Raises:
            ZooError: it cannot be written, or what it would load is not this model.
            MeasureError: the model cannot be exported to ONNX; the folder is written.
        """
        path = Path(folder) if folder is not None else Path(f'{self.base}-syno')
        card = folder_card(path.name, self.base, slot_config(self.model), self.evidence)
        size = (self.example.shape[1], self.example.shape[2], self.example.shape[3])
        model_zoo.save_folder(self.model, path, base=self.base, input_size=size, evidence=self.evidence, card=card)
        if onnx:
            export_onnx(self.model.eval(), self.example, path / ONNX, free_batch=True)
        return path


def make_retrofit(recipe: Recipe, original: nn.Module | None = None, *, command: str = '') -> Retrofitted:
    """Fill the slots of a model, start the weights of the operators, and measure both models.

    Args:
        recipe: what to do.
        original: a timm model that is there already, with its weights; by default the recipe's name is made.
        command: kept in the evidence: how this can be done again.

    Raises:
        ConfigError: something in the recipe is missing or contradicts something else.
        SlotError: the model has no slot, a name is unknown, or no choice keeps the budget.
        ZooError, JournalError: there is no such run or candidate.
        DataError: there are no such data.
    """
    choice = choice_of_run(recipe.run, recipe.candidate) if recipe.run else None
    recipe = _of_run(recipe, choice)
    if original is None and not recipe.model:
        raise ConfigError('name a timm model, or a search with --from-run RUN_DIR (in Python, run=)')
    data = _data(recipe, choice)
    started = original is not None or _has_weights(recipe)
    model = _original(recipe, choice, data) if original is None else original.eval()
    if not isinstance(getattr(model, 'pretrained_cfg', None), Mapping):
        raise ConfigError(f'{type(model).__name__} is no timm model: use syno_nni.retrofit(model, operator)')
    example = torch.randn(_shape(recipe, data, model)).to(next(model.parameters()))
    chosen: Choice | None = None
    if choice is not None:
        # As the search filled them: each operator was made for these slots.
        filling, slots = choice.fillings(model)
        result = retrofit(model, filling, example, slots=slots, adapt=False)
    elif recipe.budget is not None:
        slots = recipe.selection.of(model, example).slots
        chosen, filling = _choose(recipe, recipe.budget, model, example, slots, data)
        result = retrofit(model, filling, example, slots=slots, coefficients=recipe.selection.coefficients, on_misfit='keep')
    else:
        filling, slots = dict(recipe.fill), _slots(recipe, model, example)
        result = retrofit(model, filling, example, slots=slots, coefficients=recipe.selection.coefficients, on_misfit='keep')
    evidence: dict[str, Any] = {**({'command': command} if command else {}), 'versions': dict(versions()),
                                'change': change(model, result, slots, example)}
    evidence |= _start(recipe.weights, model, result, data, started)
    if choice is not None:
        evidence['run'] = choice.provenance
    evidence['latency'] = latencies(model, result, example, recipe.measure.runtimes, threads=recipe.measure.threads,
                                    seconds=recipe.measure.seconds)
    base = getattr(model, 'syno_base', None) or model.pretrained_cfg['architecture']  # type: ignore[index]
    return Retrofitted(model, result.eval(), str(base), example, slots, evidence, chosen)


# --- the original ----------------------------------------------------------------------------------------------------

def _of_run(recipe: Recipe, choice: RunChoice | None) -> Recipe:
    """The recipe with what a run says about model and images.

    Raises:
        ConfigError: the recipe says otherwise.
    """
    if choice is None:
        return recipe
    _, channels, size, _ = choice.input_shape
    searched = choice.config.model.name
    if choice.config.model.factory is not None:
        raise ConfigError(f'{recipe.run} searched for a model of yours, {choice.config.model.factory}: its winner is in '
                          f'{recipe.run}/winner, and syno_nni.load(folder, model=...) puts it into your model')
    if recipe.model not in ('', searched):
        raise ConfigError(f'{recipe.run} searched operators for {searched}; leave {recipe.model} out, or take the '
                          'formula with --operator')
    for what, got, want in (('channels', recipe.channels, channels), ('image size', recipe.image_size, size)):
        if got not in (None, want):
            raise ConfigError(f'{recipe.run} searched at {what} {want}, not {got}: leave it out, or take the formula with '
                              '--operator')
    own = recipe.selection
    if own.kinds != 'auto' or own.include or own.exclude or own.min_share or own.coefficients:
        raise ConfigError(f'{recipe.run} brings the slots that it searched for: leave out kinds, patterns and groups, or take '
                          'the formula with --operator')
    weights = recipe.weights
    if weights.data is not None:
        images = weights.data.model_copy(update={'image_size': size, 'channels': channels})
        weights = replace(weights, data=images)
    return replace(recipe, model=searched, channels=channels, image_size=size, weights=weights)


def _data(recipe: Recipe, choice: RunChoice | None) -> Splits | None:
    """The splits to fit and test on, or those of the run, whose classes decide the model's head."""
    if recipe.weights.data is not None:
        return load_data(recipe.weights.data)
    return load_data(choice.config.data) if choice is not None else None


def _has_weights(recipe: Recipe) -> bool:
    return bool(recipe.weights.checkpoint or recipe.weights.pretrained
                or recipe.model.startswith(('local-dir:', 'hf-hub:')))


def _original(recipe: Recipe, choice: RunChoice | None, data: Splits | None) -> nn.Module:
    kwargs: dict[str, Any] = choice.config.model.kwargs if choice is not None else {}
    classes = recipe.num_classes or (data.num_classes if data is not None else None)
    if classes:
        kwargs['num_classes'] = classes
    if recipe.channels:
        kwargs['in_chans'] = recipe.channels
    pretrained = recipe.weights.pretrained or recipe.model.startswith(('local-dir:', 'hf-hub:'))
    model = create_backbone(recipe.model, pretrained=pretrained, **kwargs)
    if recipe.weights.checkpoint:
        load_weights(model, recipe.weights.checkpoint)
    return model.eval()


def _shape(recipe: Recipe, data: Splits | None, model: nn.Module) -> tuple[int, ...]:
    """[1, channels, height, width]"""
    declared = model.pretrained_cfg.get('input_size', (3, 224, 224))  # type: ignore[operator, union-attr]
    size = recipe.image_size or (data.image_size if data is not None else None)
    channels = recipe.channels or getattr(model, 'in_chans', None) or declared[0]
    return (1, channels, size, size) if size else (1, channels, *declared[1:])


# --- what fills the slots --------------------------------------------------------------------------------------------

def _slots(recipe: Recipe, model: nn.Module, example: Tensor) -> list[Slot]:
    """The slots that the recipe fills. Names that mean nothing are errors, before anything slow."""
    selection = recipe.selection
    if selection.kinds == 'auto':
        selection = replace(selection, kinds=kinds_for(recipe.fill))
    selected = selection.of(model, example)
    assign(dict.fromkeys(recipe.fill), selected.slots, selected.excluded)
    return selected.slots


def _choose(recipe: Recipe, budget: Budget, model: nn.Module, example: Tensor, slots: list[Slot],
            data: Splits | None) -> tuple[Choice, dict[str, Operator | str]]:
    operators = list(recipe.candidates)
    if not operators:
        operators = [model_zoo.load(name).operator for name in model_zoo.names()]
        operators += [classics.grouped_conv2d(), classics.low_rank_linear(), classics.grouped_linear()]
    runtime = next(iter(recipe.measure.runtimes), 'eager')
    threads = recipe.measure.threads

    def timer(candidate: nn.Module, baseline: nn.Module, x: Tensor) -> tuple[float, float]:
        pair = measure_pair(candidate, baseline, x, seconds=0.4, runtime=runtime, threads=threads)
        return pair.baseline.median_ms, pair.speedup

    images = data if recipe.weights.data is not None else None
    whole = measure(model, example, runtime=runtime, threads=threads, seconds=1.0).median_ms
    chosen = choose_per_slot(model, slots, operators, budget, model_ms=whole, group_by=recipe.selection.group_by,
                             batches=_fitting_images(images) if images else None,
                             score=_accuracy_of(images.val) if images else None, timer=timer)
    filling = chosen.assignment.mapping(chosen.groups, {op.id: op for op in operators})
    if set(filling.values()) == {KEEP}:
        raise ConfigError('the best choice within the budget keeps every layer; allow more loss or less latency')
    return chosen, dict(filling)


# --- weights ---------------------------------------------------------------------------------------------------------

def _start(weights: Weights, original: nn.Module, result: nn.Module, data: Splits | None, started: bool) -> dict[str, Any]:
    """Warm start and distillation, as far as there is something to start from; what was done, as evidence."""
    images = data if weights.data is not None else None
    done: dict[str, Any] = {'weights': 'fresh'}
    if started:
        errors = warm_start(original, result, _fitting_images(images) if images else None)
        done = {'weights': 'warm start', 'slot_error': round(sum(errors.values()) / len(errors), 4)}
    if weights.steps and images is not None:
        loader = DataLoader(images.train, BATCH, shuffle=True,
                            drop_last=len(images.train) > BATCH)  # type: ignore[arg-type]
        distill(original, result, loader, steps=weights.steps, losses=weights.losses, learning_rate=weights.learning_rate)
        done['weights'] += f', {weights.steps} steps of distillation'
    if images is not None and weights.data is not None and (started or weights.steps):
        score = _accuracy_of(images.test)
        done['accuracy'] = {
            'dataset': weights.data.name, 'split': 'test', 'accuracy': score(result) / 100,
            'baseline_accuracy': score(original) / 100, 'recipe': f'Weights: {done["weights"]}.', 'seeds': [0]}
    return done


def _fitting_images(data: Splits) -> list[Any]:
    """Two batches of the training split."""
    batches = iter(DataLoader(data.train, BATCH))
    return [batch for batch, _ in zip(batches, range(2), strict=False)]


def _accuracy_of(split: Any) -> Callable[[nn.Module], float]:
    """A function that scores models on a split, in percent."""
    return lambda model: 100 * accuracy(model, split)
