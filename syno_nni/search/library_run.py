"""A search by retrofit, but for NNI: the original, the library, and how the time is shared out."""
from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from tqdm import tqdm

import syno_nni.model_zoo as model_zoo
from syno_nni.data.splits import Splits, halved
from syno_nni.errors import SlotError
from syno_nni.measure.cost_model import CostModel
from syno_nni.measure.threads import torch_threads
from syno_nni.nas.mutable import OperatorChoice
from syno_nni.nas.original import original_model
from syno_nni.nas.training import accuracy, fit
from syno_nni.operator import Operator, classics
from syno_nni.run.candidate import BASELINE
from syno_nni.run.config import SearchConfig
from syno_nni.run.journal import Journal
from syno_nni.search_spaces.coefficients import unfit
from syno_nni.search_spaces.retrofit.library import Library
from syno_nni.search_spaces.retrofit.retrofit import retrofit
from syno_nni.search_spaces.retrofit.time_saved import TimeSaved
from syno_nni.search_spaces.selection import LABEL, space_of
from syno_nni.search_spaces.slots import Slot, bindings
from syno_nni.strategies import make_strategy
from syno_nni.strategies.assembly import SynoAssembly
from syno_nni.strategies.explore import explore
from syno_nni.weights import save_weights

from .healing import RetrofitEvaluator, example_images, max_loss_of

Tell = Callable[[str], None]

ORIGINAL = 'original.safetensors'
"""File in the run directory for the original's weights, where the search trained it."""
_IMAGES = 128
_BETTER_THAN_CHANCE = 1.5
# A model is trained that knows so many times more than guessing does.
_SURE, _NOTABLE = 3.0, 0.01
# Standard errors, and points of accuracy, by which accuracies on two splits must differ to mean something.
_EXPLORING, _TRIALS, _END = 0.25, 0.55, 0.95
# Parts of the wanted duration by which the library is full, the last trial begins, and the last healing ends.
_TRIALS_FOR_BISECTION = 6
_OVERHEAD_S = 15.0
_CHILDREN, _RANDOM = 2, 0.3
# Of an evolution: to make a child takes as long as to look at it, and what is wanted are operators of many kinds.
_FEWEST_STEPS = 30


@dataclass
class Budget:
    """How the time of a search is shared out. Times are seconds of :func:`time.monotonic`."""
    started: float
    duration_s: float | None

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self.started

    def left_until(self, part: float) -> float | None:
        """Seconds until so much of the duration is over; None without one."""
        return None if self.duration_s is None else max(part * self.duration_s - self.spent_s, 0.0)

    @property
    def exploring_s(self) -> float | None:
        return self.left_until(_EXPLORING)

    @property
    def trials_s(self) -> float | None:
        return self.left_until(_TRIALS)

    @property
    def healing_s(self) -> float | None:
        return self.left_until(_END)


def with_weights(config: SearchConfig, data: Splits, run_dir: Path, tell: Tell) -> SearchConfig:
    """The configuration with the weights that candidates start from: those that it names, those that a function of the
    user's returns, or, where there are none, the original's after a training by the recipe."""
    path = (run_dir / ORIGINAL).absolute()
    if path.is_file():
        return _from(config, path)
    if config.model.has_weights:
        return config
    pl.seed_everything(config.evaluation.seed, workers=True, verbose=False)
    model = original_model(config, data.num_classes)
    if config.model.factory is not None and accuracy(model, data.val) > _BETTER_THAN_CHANCE / data.num_classes:
        return config
    tell(f'{config.model.title} has no trained weights: training it for {config.evaluation.epochs} epochs')
    reached = fit(model, config.evaluation, data.train, data.val, num_classes=data.num_classes,
                  batch_size=config.data.batch_size, progress=True)
    tell(f'trained: {100 * reached["accuracy"]:.2f} % on the validation split')
    save_weights(model, path)
    return _from(config, path)


def with_unseen_images(config: SearchConfig, data: Splits, tell: Tell) -> tuple[SearchConfig, Splits]:
    """Configuration and data with validation images that the original was not trained on.

    A checkpoint's training often had them all. It then knows the validation images better than any others, candidates do not,
    and comparing the two says nothing: half of the test images are taken in their place.
    """
    if config.data.validation == 'test' or data.test is data.val:
        return config, data
    model = original_model(config, data.num_classes).eval()
    with torch_threads(config.evaluation.threads):
        val, test = accuracy(model, data.val), accuracy(model, data.test)
    error = math.sqrt(sum(a * (1 - a) / len(d) for a, d in ((val, data.val), (test, data.test))))  # type: ignore[arg-type]
    if val - test <= max(_SURE * error, _NOTABLE):
        return config, data
    tell(f'the original is right on {100 * val:.1f} % of the validation images and on {100 * test:.1f} % of the test images: '
         'it was trained on the former. Half of the test images are taken for validation, and it is tested with the others.')
    return config.replace(data={**config.data.model_dump(by_alias=True), 'validation': 'test'}), halved(data, config.data.seed)


def _from(config: SearchConfig, path: Path) -> SearchConfig:
    return config.replace(model={**config.model.model_dump(by_alias=True), 'checkpoint': str(path)})


def fill_library(config: SearchConfig, evaluator: RetrofitEvaluator, journal: Journal, budget: Budget, tell: Tell) -> Library:
    """Screen operators for the slots of the original, or go on with it."""
    original, slots = evaluator.original, evaluator.slots
    if not slots:
        raise SlotError(f'{config.model.title} has no slot; `syno-nni slots` lists its layers')
    latency = config.latency
    example = torch.randn(latency.batch_size, *evaluator.input_shape[1:])
    timer = TimeSaved(original, example, runtime=latency.runtime, threads=latency.threads)
    library = Library(original, slots, example_images(evaluator.data, _IMAGES, config.data.seed), timer,
                      CostModel.of(latency.runtime, latency.threads), known=journal.state.library.values(),
                      keep=journal.append, seed=config.strategy.seed)
    begun = any(c.id != BASELINE for c in journal.state.candidates.values())
    if begun:
        return library
    own = {'children': _CHILDREN, 'random_share': _RANDOM} if config.strategy.name == 'evolution' else {}
    proposer = make_strategy(config.strategy.name, seed=config.strategy.seed + library.screened, baseline=False,
                             **{**own, **config.strategy.class_args})
    choice = OperatorChoice({**space_of(config), 'bindings': bindings(slots)}, label=LABEL)
    wanted = config.evaluation.screen_operators if budget.duration_s is None else None
    before = time.monotonic()
    with tqdm(total=wanted, unit='operator', desc='screening', disable=None,
              leave=False) as bar:
        explore(library, proposer, choice, seeds=known_operators(slots), operators=wanted, seconds=budget.exploring_s,
                tick=lambda n: bar.update(n - bar.n))
    library.measure_again()
    best = max(map(library.speedup, library.front()))
    tell(f'{library.screened} operators screened in {time.monotonic() - before:.0f} s, {len(library.entries)} scored in the '
         f'model; models of up to {best:.2f}x are in reach')
    return library


def known_operators(slots: Sequence[Slot]) -> list[Operator]:
    """Classic and published operators that fit one of the slots."""
    found = {op.id: op for op in [*(make() for make in classics.CLASSICS.values()),
                                  *(model_zoo.load(name).operator for name in model_zoo.names())]}
    return [op for op in found.values() if any(not unfit(op, slot) for slot in slots)]


def share_out(config: SearchConfig, evaluator: RetrofitEvaluator, library: Library, budget: Budget) -> SearchConfig:
    """The configuration with as many steps of healing as the time allows; as it is without a limit of time."""
    if budget.duration_s is None:
        return config
    trials = min(config.max_trial_number, _TRIALS_FOR_BISECTION)
    each = (budget.trials_s or 0.0) / trials - _OVERHEAD_S
    steps = max(_FEWEST_STEPS, int(each / _step_s(evaluator, library)))
    return config.replace(evaluation=config.evaluation.model_copy(update={'heal_steps': steps}).model_dump(by_alias=True))


def _step_s(evaluator: RetrofitEvaluator, library: Library) -> float:
    """Seconds that a step of healing takes."""
    sample = library.sample(library.nearest(1.5))
    model = retrofit(copy.deepcopy(evaluator.original), sample, slots=evaluator.slots, check=False)
    evaluator.heal(model, 1)
    seconds = []
    for steps in (1, 6):
        started = time.monotonic()
        evaluator.heal(model, steps)
        seconds.append(time.monotonic() - started)
    return max((seconds[1] - seconds[0]) / 5, 1e-3)


def assembly_of(config: SearchConfig, library: Library, groups: dict[str, list[Slot]], budget: Budget) -> SynoAssembly:
    """The strategy that proposes the library's models."""
    strategy = SynoAssembly(
        seed=config.strategy.seed, max_trials=config.max_trial_number,
        proposing_s=None if budget.trials_s is None else max(budget.trials_s, 1.0),
        max_trial_duration_s=config.max_trial_duration, max_loss=max_loss_of(config.objective),
        concurrency=1 if config.engine == 'sequential' else config.trial_concurrency,
        max_attempts=3 if config.engine == 'sequential' else None)
    strategy.library = library
    strategy.labels = {slot.name: label for label, members in groups.items() for slot in members}
    return strategy
