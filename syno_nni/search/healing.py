"""The evaluator of a search by retrofit: operators are fitted to the layers they replace, and the model is healed."""
from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import nni
import torch
from nni.nas.space import ExecutableModelSpace
from torch import Tensor, nn
from torch.utils.data import DataLoader

from syno_nni.measure.threads import torch_threads
from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.nas.original import original_model
from syno_nni.nas.stages import StageLog
from syno_nni.nas.training import accuracy
from syno_nni.run.candidate import sample_id
from syno_nni.run.objective import ObjectiveConfig
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.kernel_fit import KernelFits
from syno_nni.search_spaces.retrofit.retrofit import filled_slots
from syno_nni.search_spaces.retrofit.views import Views
from syno_nni.search_spaces.retrofit.warm_start import recalibrate_batch_norm
from syno_nni.search_spaces.selection import Selection
from syno_nni.search_spaces.slots import Slot
from syno_nni.weights import load_weights, save_weights

MODELS = 'models'
"""Folder in a run directory for the weights of healed candidates."""
_CALIBRATION = 8
# Batches that normalisation is calibrated on.


@nni.trace
class RetrofitEvaluator(OperatorEvaluator):
    """Evaluates an assembled model from the weights of the original, in the stages ``size``, ``latency``, ``fit``, ``heal``.

    It reports what :class:`~syno_nni.nas.evaluator.OperatorEvaluator` does, but for the scores of untrained models, and
    ``fit_error``, the mean relative error of the slots after fitting, and ``steps`` of healing. The original is not trained.

    Args:
        config: a resolved experiment file. The weights of healed models go into its run directory, where there is one.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.progress = False
        """Whether long trainings show a bar."""

    @cached_property
    def original(self) -> nn.Module:
        """The original model with its weights, in evaluation mode."""
        return original_model(self.config, self.data.num_classes).eval()

    @cached_property
    def slots(self) -> list[Slot]:
        """Of the original, as the search selects them."""
        return Selection.of_search(self.config).of(self.original, self.input_shape).slots

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width)"""
        data = self.config.data
        return 1, data.channels, data.image_size, data.image_size

    def _execute(self, model: ExecutableModelSpace) -> dict[str, Any]:
        return self._reporting(lambda: self.metrics(self.build(model), sample_id(model.sample or {})))

    def build(self, model: ExecutableModelSpace) -> nn.Module:
        built: Any = super().build(model)
        return built.net  # as the original is, without the model space around it

    def metrics(self, model: nn.Module, name: str = '') -> dict[str, Any]:
        """Take ``model`` through all stages; its weights are kept under ``name``.

        Raises:
            Rejected: a stage found that the rest is not worth while.
        """
        config, log = self.config, StageLog()
        self._log = log
        kept = not filled_slots(model)
        self._cheap_stages(model, kept)
        if not kept:
            with log.running('fit') as known:
                errors = self.fit(model)
                known['fit_error'] = round(sum(errors.values()) / len(errors), 6)
            with log.running('heal') as known:
                self.heal(model, config.evaluation.heal_steps)
                known['steps'] = config.evaluation.heal_steps
                self.keep(model, name)
        with log.running('validate') as known:
            known['accuracy'] = round(self.validate(model), 6)
        return {'default': self.score(known), **known}

    def score(self, known: Mapping[str, Any]) -> float:
        """The objective of these metrics."""
        ms = known['latency_ms']
        objective = self.config.objective.model_copy(update={'max_accuracy_loss': max_loss_of(self.config.objective)})
        return round(objective.score(known['accuracy'], ms, ms * known['speedup_sure'], self.reference.accuracy), 6)

    def fit(self, model: nn.Module) -> dict[str, float]:
        """Give the operators the weights that are nearest to the layers; the relative error left in every slot."""
        names = filled_slots(model)
        return KernelFits(self.original, [s for s in self.slots if s.name in names]).fill(model)

    def heal(self, model: nn.Module, steps: int, *, seed: int = 0) -> None:
        """Calibrate normalisation, and distil from the original for so many batches."""
        recipe, batch = self.config.evaluation, self.config.data.batch_size
        order = torch.Generator().manual_seed(recipe.seed + seed)
        loader = DataLoader(self.data.train, batch_size=batch, shuffle=True, generator=order,
                            drop_last=len(self.data.train) >= batch)  # type: ignore[arg-type]
        with torch_threads(recipe.threads):
            images = [images for images, _ in islice(loader, _CALIBRATION)]
            recalibrate_batch_norm(model, images)
            distill(self.original, model, Views(loader, seed=recipe.seed + seed), steps=steps, losses=Losses(0.0, 1.0),
                    learning_rate=recipe.heal_learning_rate, warm_up=0.2, progress='healing' if self.progress else '')
            # Running averages lag behind weights that change fast.
            recalibrate_batch_norm(model, images)
        model.eval()

    def validate(self, model: nn.Module) -> float:
        """Accuracy on the validation split, 0 to 1."""
        with torch_threads(self.config.evaluation.threads):
            return accuracy(model, self.data.val)

    def test(self, model: ExecutableModelSpace) -> dict[str, Any]:
        """The accuracy of a candidate on the test split (0 to 1), with the weights that it ended with."""
        built = self.load(model)
        with torch_threads(self.config.evaluation.threads):
            return {'accuracy': round(accuracy(built, self.data.test), 6)}

    # --- weights of candidates ---------------------------------------------------------------------------------------

    def path(self, name: str) -> Path | None:
        """Where the weights of a candidate are kept; None without a run directory."""
        folder = self.config.run_directory
        return Path(folder) / MODELS / f'{name}.safetensors' if folder and name else None

    def keep(self, model: nn.Module, name: str) -> None:
        """Keep the weights of a candidate."""
        path = self.path(name)
        if path is None or not path.parent.parent.is_dir():
            return  # on another machine
        path.parent.mkdir(exist_ok=True)
        save_weights(model, path)

    def load(self, model: ExecutableModelSpace) -> nn.Module:
        """The model of a candidate with the weights that it ended with; healed anew where these are gone."""
        built = self.build(model)
        if not filled_slots(built):
            return built.eval()
        path = self.path(sample_id(model.sample or {}))
        if path is not None and path.is_file():
            load_weights(built, path)
        else:
            self.fit(built)
            self.heal(built, self.config.evaluation.heal_steps)
        return built.eval()


MAX_LOSS = 0.01
"""Accuracy that a winner may lose where the file does not say: a point."""


def max_loss_of(objective: ObjectiveConfig) -> float:
    """Accuracy that the winner may lose."""
    return MAX_LOSS if objective.max_accuracy_loss is None else objective.max_accuracy_loss


def example_images(data: Any, count: int, seed: int) -> Tensor:
    """Some training images, [count, channels, height, width]."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack([data.train[int(i)][0] for i in order])
