"""What can be told about an experiment before anything is loaded, made or measured: ``--dry-run`` and every search ask."""
from __future__ import annotations

from pathlib import Path

import torch

from syno_nni.backbone import check_backbone
from syno_nni.environment import usable_memory
from syno_nni.errors import ConfigError, MeasureError
from syno_nni.files import WEIGHTS_BYTES, check_file
from syno_nni.measure.runtimes import missing
from syno_nni.run.config import SearchConfig
from syno_nni.search_spaces.slots import KINDS
from syno_nni.strategies import check_strategy, strategy_names
from syno_nni.text import cell, did_you_mean
from syno_nni.user_code import find_module, import_function

_TRAINING_FACTOR, _INFERENCE_FACTOR = 10, 3
# The least that a network holds in memory, in sizes of its input: what training keeps for the backward pass (a ResNet-18
# keeps 40), and the largest two maps at once.


def check(config: SearchConfig, *, here: bool = True) -> None:
    """Whether a search can begin, as far as its configuration tells.

    Args:
        config: of the search.
        here: whether its trials run on this machine; what they need is not asked for where they do not.

    Raises:
        ConfigError: there is no such model, kind of slot or argument of the strategy; there is no GPU, or not the memory.
        MeasureError: a library that the latency is measured with is missing.
    """
    if config.model.factory is not None:
        find_module(config.model.factory, config.trial_code_directory, 'model.factory')
    else:
        check_backbone(config.model.name, in_chans=config.data.channels, **config.model.kwargs)
    if config.data.factory is not None:
        find_module(config.data.factory, config.trial_code_directory, 'data.factory')
    if config.model.checkpoint is not None:
        check_file(Path(config.model.checkpoint), limit=WEIGHTS_BYTES, error=ConfigError, what='model.checkpoint: the weights')
    for kind in config.slots.kinds:
        if kind not in (*KINDS, 'auto', 'all'):
            hint = did_you_mean(kind, (*KINDS, 'auto', 'all'))
            raise ConfigError(f'slots.kinds: unknown kind of slot {cell(kind, 80)!r}; {hint}')
    check_strategy(config.strategy)
    if config.retrofits:
        if config.strategy.name not in strategy_names():
            raise ConfigError(f'strategy.name: in a search by retrofit {config.strategy.name} cannot propose operators; choose '
                              f'from {", ".join(strategy_names())}, or write evaluation.mode: scratch')
        if config.slots.group_by not in ('model', 'slot'):
            raise ConfigError(f'slots.groupBy: a search by retrofit chooses for every slot, got {config.slots.group_by}; leave '
                              'it out, or write evaluation.mode: scratch')
    if config.latency.image_size not in (None, config.data.image_size):
        raise ConfigError(f'latency.imageSize: {config.latency.image_size} differs from data.imageSize, '
                          f'{config.data.image_size}: the operators of a run are made for one size')
    if not here or config.engine == 'remote':
        return
    if lacking := missing(config.latency.runtime):
        raise MeasureError(f'latency.runtime: {config.latency.runtime} needs {lacking}')
    if config.evaluation.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('evaluation.device: there is no CUDA GPU that torch can use here; write cpu, or auto')
    _check_memory(config)


def check_code(config: SearchConfig) -> None:
    """Import the functions of the user's own that a search calls.

    Raises:
        ConfigError: there is no such module or function, or the import fails.
    """
    for name, where in ((config.model.factory, 'model.factory'), (config.data.factory, 'data.factory')):
        if name is not None:
            import_function(name, config.trial_code_directory, where)


def _check_memory(config: SearchConfig) -> None:
    data, memory = config.data, usable_memory()
    image = 4 * data.channels * data.image_size ** 2
    needs = {'data.batchSize': (data.batch_size, _TRAINING_FACTOR),
             'latency.batchSize': (config.latency.batch_size, _INFERENCE_FACTOR)}
    if config.evaluation.device != 'cpu' and torch.cuda.is_available():
        del needs['data.batchSize']  # that is in the GPU's
    for key, (batch, factor) in needs.items():
        needed = batch * image * factor
        if memory is not None and needed > memory:
            raise ConfigError(f'data.imageSize: {batch} images ({key}) of {data.image_size} pixels need {needed / 1e9:.0f} GB '
                              f'of memory at least, and this machine has {memory / 1e9:.0f}; make one of the two smaller')
