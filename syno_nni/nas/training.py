"""The training recipe that the baseline and all candidates share, run by Lightning through NNI's evaluator."""
from __future__ import annotations

import functools
import logging
import math
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nni
import pytorch_lightning as pl
import torch
import torchmetrics
from nni.nas.evaluator.pytorch import DataLoader, Lightning, SupervisedLearningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.utils.data import Dataset

from syno_nni.measure.threads import torch_threads
from syno_nni.modes import evaluating
from syno_nni.run.config import EvaluationConfig

from .stages import Diverged, Rejected

_OPTIMIZERS = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}


Stop = Callable[[int, float], str | None]
"""From an epoch, counted from 0, and its validation accuracy to the reason why training should stop, or None."""


class RecipeModule(SupervisedLearningModule):
    """Classification by the recipe of an experiment file; ``report`` tells NNI each epoch's validation accuracy."""

    def __init__(self, recipe: EvaluationConfig, num_classes: int, report: bool = False,
                 stop: Stop | None = None) -> None:
        super().__init__(
            criterion=functools.partial(nn.CrossEntropyLoss, label_smoothing=recipe.label_smoothing),
            metrics={'acc': torchmetrics.Accuracy('multiclass', num_classes=num_classes)}, export_onnx=False)
        self.recipe = recipe
        self.report = report
        self.stop = stop
        self.stopped: str | None = None

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        extra = {'momentum': recipe.momentum} if recipe.optimizer == 'sgd' else {}
        optimizer = _OPTIMIZERS[recipe.optimizer](self.parameters(), lr=recipe.learning_rate,
                                                  weight_decay=recipe.weight_decay, **extra)
        schedule = make_schedule(optimizer, recipe, max(1, int(self.trainer.estimated_stepping_batches)))
        if schedule is None:
            return optimizer
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}

    def on_validation_epoch_end(self) -> None:
        accuracy = self.validation_accuracy()
        if self.report:
            nni.report_intermediate_result({'default': accuracy, 'accuracy': accuracy, 'loss': self.validation_loss()})
        if not all(bool(p.isfinite().all()) for p in self.parameters()):
            self.trainer.should_stop = True  # there is no way back
        elif self.stop is not None and (reason := self.stop(self.current_epoch, accuracy)) is not None:
            self.stopped, self.trainer.should_stop = reason, True

    def validation_accuracy(self) -> float:
        """Accuracy of the last validation, between 0 and 1."""
        return round(float(self.trainer.callback_metrics['val_acc']), 6)

    def validation_loss(self) -> float:
        """Mean loss of the last validation; a large number in place of what JSON does not know."""
        return round(self._loss, 6) if math.isfinite(self._loss) else 1e9

    def check(self) -> None:
        """Raise :class:`Diverged` unless the last validation had a finite loss: the accuracy of anything else is that of
        the class with number 0."""
        if not math.isfinite(self._loss):
            raise Diverged(f'the loss on the validation split is {self._loss} after {self.current_epoch} of '
                           f'{self.recipe.epochs} epochs: the model gives outputs that are no finite numbers; a lower '
                           'evaluation.learningRate, or evaluation.clipGradient, may help')

    @property
    def _loss(self) -> float:
        return float(self.trainer.callback_metrics['val_loss'])

    def _final_report(self) -> None:
        """Nothing: the evaluator reports when it has measured the latency too."""


def make_schedule(optimizer: Optimizer, recipe: EvaluationConfig, steps: int) -> LRScheduler | None:
    """The learning-rate schedule over ``steps`` optimizer steps; its peak is the optimizer's rate."""
    match recipe.schedule:
        case 'cosine':
            return CosineAnnealingLR(optimizer, steps)
        case 'onecycle':
            return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps,
                              cycle_momentum=recipe.optimizer == 'sgd')
    return None


def fit(model: nn.Module, recipe: EvaluationConfig, train: Dataset, val: Dataset, *, num_classes: int,
        batch_size: int, report: bool = False, stop: Stop | None = None, progress: bool = False) -> dict[str, float]:
    """Train ``model`` in place; return the validation ``accuracy`` (0 to 1) and ``loss`` after the last epoch.

    With ``report``, NNI gets the metrics of every epoch as intermediate results; ``progress`` shows a bar.

    Raises:
        Rejected: ``stop`` gave a reason.
        Diverged: the model ends with outputs that are no numbers.
    """
    module = RecipeModule(recipe, num_classes, report, stop)
    order = torch.Generator().manual_seed(recipe.seed)
    with quiet_lightning(), torch_threads(recipe.threads), tempfile.TemporaryDirectory() as scratch:
        pl.seed_everything(recipe.seed, workers=True, verbose=False)
        trainer = Trainer(
            max_epochs=recipe.epochs, accelerator='gpu' if recipe.device == 'cuda' else recipe.device, devices=1,
            gradient_clip_val=recipe.clip_gradient, num_sanity_val_steps=0, default_root_dir=scratch, logger=False,
            enable_progress_bar=progress and sys.stderr.isatty(), enable_checkpointing=False, enable_model_summary=False,
            # Told, not guessed: where it finds itself in a SLURM job it takes over the job's signals, and requeues the job.
            plugins=[LightningEnvironment()])
        evaluator = Lightning(
            module, trainer,
            train_dataloaders=DataLoader(train, batch_size=batch_size, shuffle=True, generator=order),
            val_dataloaders=DataLoader(val, batch_size=4 * batch_size))
        with _plain_interrupts():
            evaluator.evaluate(model)
        module.check()
        if module.stopped is not None:
            raise Rejected(module.stopped)
        return {'accuracy': module.validation_accuracy(), 'loss': module.validation_loss()}


@torch.inference_mode()
def accuracy(model: nn.Module, data: Dataset, batch_size: int = 256) -> float:
    """The share of correct answers, between 0 and 1."""
    device = next(model.parameters()).device
    right = total = 0
    with evaluating(model):
        for x, y in torch.utils.data.DataLoader(data, batch_size=batch_size):
            right += int((model(x.to(device)).argmax(1) == y.to(device)).sum())
            total += len(y)
    return right / total


@contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Lightning turns a KeyboardInterrupt into an exit of the process and ignores all later ones; NNI would take that
    exit for a failure of the trial and go on."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit:
        raise KeyboardInterrupt from exit
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's banners and its advice about loader workers (data in memory needs none)."""
    loggers = [logging.getLogger(name) for name in ('pytorch_lightning', 'lightning.pytorch', 'lightning.fabric',
                                                    'pytorch_lightning.utilities.rank_zero')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*does not have many workers.*')
            warnings.filterwarnings('ignore', message='.*number of training batches.*logging interval.*')
            warnings.filterwarnings('ignore', message='.*GPU available but not used.*')
            # Lightning's use of a torch helper that torch has deprecated.
            warnings.filterwarnings('ignore', message='.*LeafSpec.*')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
