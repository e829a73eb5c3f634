"""Data of the user's own: a function that returns a mapping of datasets.

::

    def data():
        return {'train': train, 'validation': validation, 'test': test}

Each is a map-style dataset of ``(image, label)``: a float tensor [C, H, W], prepared as the model wants it, and a whole number.
Without ``validation`` a part of ``train`` is held out; without ``test`` the validation images are taken for it. Other items,
``classes`` say, may give the number or the names of the classes; else it is what the labels show.
"""
from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from syno_nni.errors import DataError, shown
from syno_nni.user_code import call_function, import_function

from .config import DataConfig
from .splits import Splits, first

_NAMES = {'train': ('train', 'training'), 'val': ('validation', 'val', 'valid'), 'test': ('test',)}
_HELD_OUT = 10
"""Without validation images, every so many-th training image becomes one."""


def own_splits(config: DataConfig, code: str | Path | None) -> Splits:
    """The splits that ``config.factory`` returns.

    Raises:
        ConfigError: there is no such function, or it fails.
        DataError: it returns something else than datasets of images and labels.
    """
    assert config.factory is not None
    where = 'data.factory'
    returned = call_function(import_function(config.factory, code, where), {}, where)
    return splits_of(returned, config, config.factory)


def splits_of(datasets: Any, config: DataConfig, source: str) -> Splits:
    """The splits in a mapping of datasets.

    Raises:
        DataError: they are no datasets of images and labels.
    """
    if not isinstance(datasets, Mapping):
        raise DataError(f"{source}: should return a mapping {{'train': dataset, 'validation': dataset, 'test': dataset}}, got "
                        f'{shown(datasets)}')
    found = {part: next((datasets[name] for name in names if datasets.get(name) is not None), None)
             for part, names in _NAMES.items()}
    if found['train'] is None:
        raise DataError(f"{source}: has no 'train' dataset; it has {', '.join(map(str, datasets)) or 'nothing'}")
    for part, dataset in found.items():
        if dataset is not None:
            _check_map_style(dataset, f'{source}: the {part} dataset')
    train, val, test = found['train'], found['val'], found['test']
    shape = _image_shape(train, f'{source}: the train dataset')
    if shape[1] != shape[2]:
        raise DataError(f'{source}: images are {shape[1]}x{shape[2]}; a search wants square ones: crop or pad them')
    if val is None:
        train, val = _hold_out(train, config.seed)
    for part, dataset in (('validation', val), ('test', test)):
        other = _image_shape(dataset, f'{source}: the {part} dataset') if dataset is not None else shape
        if other != shape:
            raise DataError(f'{source}: images of the {part} dataset are {list(other)}, those to train with {list(shape)}')
    classes = datasets.get('classes', getattr(found['train'], 'classes', None))
    return Splits(first(train, config.train_samples, config.seed), first(val, config.val_samples, config.seed),
                  val if test is None else test, _number_of(classes, [train, val]), shape[0], shape[1], source)


def labels_of(dataset: Any) -> np.ndarray:
    """The label of every item, without making its image where the dataset keeps them apart."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    for name in ('targets', 'labels'):
        kept = getattr(dataset, name, None)
        if isinstance(kept, (list, tuple, np.ndarray, Tensor)) and len(kept) == len(dataset):
            return np.asarray(kept).astype(np.int64).reshape(-1)
    tensors = getattr(dataset, 'tensors', None)
    if isinstance(tensors, tuple) and len(tensors) == 2 and tensors[1].ndim == 1:
        return tensors[1].numpy().astype(np.int64)
    return np.array([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)


def _hold_out(train: Any, seed: int) -> tuple[Dataset, Dataset]:
    order = np.random.RandomState(seed).permutation(len(train))
    few = max(1, len(order) // _HELD_OUT)
    return Subset(train, order[few:].tolist()), Subset(train, order[:few].tolist())


def _check_map_style(dataset: Any, what: str) -> None:
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise DataError(f'{what} is a DataLoader; give its dataset: loaders are made here')
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized) or not hasattr(dataset, '__getitem__'):
        raise DataError(f'{what} should be a map-style dataset (with len() and dataset[i]), got {type(dataset).__name__}')
    if not len(dataset):
        raise DataError(f'{what} is empty')


def _image_shape(dataset: Any, what: str) -> tuple[int, int, int]:
    try:
        item = dataset[0]
    except Exception as error:
        raise DataError(f'{what} fails at item 0: {type(error).__name__}: {" ".join(str(error).split())[:200]}') from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f'{what} should give (image, label), got {shown(item)}')
    image, label = item
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim != 3:
        got = f'{image.dtype} {list(image.shape)}' if isinstance(image, Tensor) else type(image).__name__
        raise DataError(f'{what} should give images as float tensors [C, H, W], prepared for the model, got {got}')
    try:
        int(label)
    except (TypeError, ValueError):
        raise DataError(f'{what} should give labels as whole numbers, got {shown(label)}') from None
    return image.shape[0], image.shape[1], image.shape[2]


def _number_of(classes: Any, datasets: list[Any]) -> int:
    if isinstance(classes, int) and not isinstance(classes, bool):
        return classes
    if isinstance(classes, (list, tuple)):
        return len(classes)
    return int(max(labels_of(d).max() for d in datasets)) + 1
