"""``syno_nni.search``: faster operators for a model that a program holds."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from syno_nni.errors import ConfigError
from syno_nni.measure.runtimes import missing
from syno_nni.model_zoo.module_folder import load
from syno_nni.run.config import SearchConfig
from syno_nni.run.directory import new_run_directory
from syno_nni.run.report import report_data, write_report

from .given import DATA, MODEL, giving
from .model_facts import model_facts
from .run import run_search

BATCH = 128
"""Images in a batch of healing, where the caller does not say."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        model: the winner in evaluation mode; None where nothing was better than nothing.
        folder: that :func:`syno_nni.load` reads it from, with a model of the same architecture.
        data: the whole result, as ``syno-nni report RUN --json`` prints it: ``original``, ``winner``, ``front``, ...
        run_dir: with journal and report.
    """
    model: nn.Module | None
    folder: Path | None
    data: Mapping[str, Any]
    run_dir: Path

    @property
    def speedup(self) -> float | None:
        """Of the winner over the original, in the runtime of the search."""
        return (self.data.get('winner') or {}).get('speedup')


def search(model: nn.Module, train: Dataset, val: Dataset | None = None, test: Dataset | None = None, *,
           minutes: float | None = None, max_loss: float = 0.01, runtime: str | None = None, threads: int = 1,
           image_batch: int = 1, batch_size: int = BATCH, slots: str | list[str] = 'auto', strategy: str = 'evolution',
           seed: int = 0, classes: int | None = None, run_dir: str | Path | None = None, resume: bool = False,
           settings: Mapping[str, Any] | None = None, tell: Callable[[str], None] = print) -> SearchResult:
    """Search operators that make a trained model faster, and return the model with them.

    >>> result = syno_nni.search(model, train, val, minutes=40, max_loss=0.01)
    >>> result.speedup, result.model

    Args:
        model: any classifier of square images, with its trained weights; left as it is.
        train, val, test: map-style datasets of (image [C, H, W], label), images prepared for the model. Without ``val`` a part
            of ``train`` is held out; without ``test`` the validation images are taken for it.
        minutes: how long the search may take, about; None for fixed numbers of operators and steps.
        max_loss: accuracy that the winner may lose (0.01 is a point), on the validation images.
        runtime: that the latency is measured in (`syno_nni.measure.RUNTIMES`); by default onnxruntime where it is installed,
            else eager torch.
        threads, image_batch: of the latency.
        batch_size: of healing.
        slots: kinds of layers that are replaced, see :func:`~syno_nni.search_spaces.slots.find_slots`.
        strategy: that proposes operators: random, evolution, mcts.
        seed: of everything that is drawn.
        classes: number of classes, where the labels do not show it.
        run_dir: new folder for journal, report and winner; by default one in ``runs/``.
        resume: go on with the search in ``run_dir``, with the same model and data.
        settings: further sections of an experiment file, such as ``{'space': {'macsRatio': [0.05, 0.5]}}``.
        tell: gets a line of text for people now and then.

    Raises:
        SynoError: of several kinds, for whatever is wrong with the input.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f'syno_nni.search wants a torch.nn.Module, got {type(model).__name__}; for a timm name or a file of '
                          'weights write an experiment file')
    chosen = runtime or ('eager' if missing('onnx') else 'onnx')
    given: dict[str, Any] = {
        'experimentName': type(model).__name__.lower(), 'model': {'factory': MODEL},
        'data': {'factory': DATA, 'batchSize': batch_size}, 'slots': {'kinds': slots},
        'space': {'macsRatio': [0.03, 0.9]}, 'strategy': {'name': strategy, 'seed': seed},
        'latency': {'runtime': chosen, 'threads': threads, 'batchSize': image_batch},
        'evaluation': {'mode': 'retrofit', 'seed': seed}, 'objective': {'maxAccuracyLoss': max_loss}, 'engine': 'sequential'}
    if minutes is not None:
        given['maxExperimentDuration'] = round(60 * minutes)
    for name, section in (settings or {}).items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, Mapping) else section
    config = SearchConfig.from_dict(given, 'syno_nni.search')
    if config.engine != 'sequential':
        raise ConfigError(f'a model in memory is searched for in this process (engine: sequential), got {config.engine}; for '
                          'trials of their own write an experiment file with model.factory')
    folder = Path(run_dir) if run_dir is not None else new_run_directory(config)
    datasets = {'train': train, 'validation': val, 'test': test, **({'classes': classes} if classes is not None else {})}
    with giving(model, datasets):
        state = run_search(config, folder, resume=resume, tell=tell)
        facts = model_facts(state)
    write_report(state, folder, facts)
    data = report_data(state, folder, facts)
    winner = (data.get('winner') or {}).get('folder')
    return SearchResult(load(winner, model) if winner else None, Path(winner) if winner else None, data, folder)
