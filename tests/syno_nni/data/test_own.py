from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from syno_nni.data.config import DataConfig
from syno_nni.data.datasets import load_data
from syno_nni.data.own import labels_of, splits_of
from syno_nni.errors import DataError

from ...testing.own_code import corners

CONFIG = DataConfig(factory='tests.testing.own_code:datasets')


def test_what_a_function_returns() -> None:
    splits = load_data(CONFIG)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [192, 64, 64]  # type: ignore[arg-type]
    assert (splits.num_classes, splits.channels, splits.image_size) == (4, 3, 16)


def test_without_validation_some_are_held_out() -> None:
    splits = splits_of({'train': corners(100, 0), 'test': corners(20, 1)}, CONFIG, 'here')
    train, val = splits.train, splits.val
    assert isinstance(train, Subset) and isinstance(val, Subset)
    assert len(train) == 90 and len(val) == 10 and not set(train.indices) & set(val.indices)


def test_without_test_the_validation_images_are_taken() -> None:
    splits = splits_of({'train': corners(20, 0), 'val': corners(20, 1)}, CONFIG, 'here')
    assert splits.test is splits.val


def test_half_of_the_test_images() -> None:
    own, halves = load_data(CONFIG), load_data(CONFIG.model_copy(update={'validation': 'test'}))
    assert isinstance(halves.val, Subset) and isinstance(halves.test, Subset)
    assert halves.val.dataset is halves.test.dataset and len(halves.val) == len(halves.test) == 32
    assert not set(halves.val.indices) & set(halves.test.indices)
    assert len(own.test) == 64  # type: ignore[arg-type]


class _Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


class _Odd(Dataset):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


IMAGE = torch.zeros(3, 8, 8)


@pytest.mark.parametrize(('datasets', 'message'), [
    (None, 'should return a mapping'), ([1], 'should return a mapping'), ({}, "has no 'train' dataset; it has nothing"),
    ({'trian': 1}, "has no 'train' dataset; it has trian"),
    ({'train': DataLoader(corners(8, 0))}, 'is a DataLoader; give its dataset'),
    ({'train': _Stream()}, 'should be a map-style dataset'), ({'train': 3}, 'should be a map-style dataset'),
    ({'train': corners(0, 0)}, 'is empty'),
    ({'train': _Odd(IMAGE)}, r'should give \(image, label\)'),
    ({'train': _Odd((IMAGE, 'cat'))}, "should give labels as whole numbers, got 'cat'"),
    ({'train': _Odd((IMAGE.byte(), 1))}, 'float tensors'), ({'train': _Odd((np.zeros((3, 8, 8)), 1))}, 'float tensors'),
    ({'train': _Odd((torch.zeros(3, 8, 9), 1))}, '8x9; a search wants square ones'),
    ({'train': _Odd(OSError('gone'))}, 'fails at item 0: OSError: gone'),
    ({'train': corners(8, 0), 'test': _Odd((IMAGE, 1))}, r'images of the test dataset are \[3, 8, 8\]'),
])
def test_what_cannot_be_used(datasets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        splits_of(datasets, CONFIG, 'here')


def test_labels_without_making_images() -> None:
    class Lazy(_Odd):
        targets = [2, 0, 1]

    assert labels_of(Lazy(OSError('images are not touched'))).tolist() == [2, 0, 1]
    assert labels_of(Subset(Lazy(OSError()), [2, 0])).tolist() == [1, 2]
    assert labels_of(TensorDataset(torch.zeros(2, 1), torch.tensor([4, 3]))).tolist() == [4, 3]
    assert labels_of(_Odd((IMAGE, torch.tensor(5)))).tolist() == [5, 5, 5]
