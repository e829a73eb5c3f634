from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from syno_nni.data.datasets import FASHION_MNIST_PATHS, Splits, load_data
from syno_nni.errors import DataError
from syno_nni.run.config import DataConfig


def tensors(split) -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(DataLoader(split, batch_size=100_000)))


@pytest.fixture(scope='module')
def digits() -> Splits:
    return load_data(DataConfig(image_size=16))


def test_digits_are_split_without_overlap_and_with_all_classes(digits: Splits) -> None:
    splits = [tensors(s) for s in (digits.train, digits.val, digits.test)]
    assert sum(len(labels) for _, labels in splits) == 1797
    rows = [{image.numpy().tobytes() for image in images} for images, _ in splits]
    assert len(rows[0] | rows[1] | rows[2]) == 1797  # load_digits has no duplicates
    for _, labels in splits:
        share = np.bincount(labels, minlength=10) / len(labels)
        assert np.abs(share - 0.1).max() < 0.02
    assert '1199 / 239 / 359' in digits.summary()


def test_images_are_normalized_floats(digits: Splits) -> None:
    images, labels = tensors(digits.train)
    assert images.shape == (1199, 3, 16, 16) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert abs(images.mean()) < 0.05 and 0.7 < images.std() < 1.1
    image, label = digits.train[7]
    assert torch.equal(image, images[7]) and label == labels[7]


def test_splits_depend_on_the_seed_but_the_test_split_never_does() -> None:
    a, b, again = (load_data(DataConfig(image_size=8, seed=s)) for s in (0, 1, 0))
    assert torch.equal(tensors(a.train)[0], tensors(again.train)[0])
    assert not torch.equal(tensors(a.val)[1], tensors(b.val)[1])
    assert torch.equal(tensors(a.test)[1], tensors(b.test)[1])


def test_samples_can_be_limited_but_not_invented() -> None:
    splits = load_data(DataConfig(image_size=8, train_samples=100, val_samples=50))
    assert (len(splits.train), len(splits.val)) == (100, 50)
    with pytest.raises(DataError, match='there are only 1438 images'):
        load_data(DataConfig(train_samples=1400, val_samples=50))


@pytest.mark.parametrize('size', [4, 8, 11, 12, 32])
@pytest.mark.parametrize('channels', [1, 3])
def test_any_size_and_channels(size: int, channels: int) -> None:
    image, _ = load_data(DataConfig(image_size=size, channels=channels)).val[0]
    assert image.shape == (channels, size, size) and torch.isfinite(image).all()


def test_small_enlargements_pad_with_black() -> None:
    small, padded = (load_data(DataConfig(image_size=s, channels=1)).train[0][0] for s in (8, 10))
    assert torch.equal(padded[:, 1:9, 1:9], small)
    assert torch.allclose(padded[0, 0], small.min().expand(10))


def write_idx(path: Path, array: np.ndarray, compress: bool = True) -> None:
    data = bytes((0, 0, 8, array.ndim)) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.tobytes()
    path.with_name(path.name + '.gz').write_bytes(gzip.compress(data)) if compress else path.write_bytes(data)


def fashion(folder: Path, compress: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part, n in (('train', 60), ('t10k', 20)):
        write_idx(folder / f'{part}-images-idx3-ubyte', random.integers(0, 256, (n, 28, 28), np.uint8), compress)
        write_idx(folder / f'{part}-labels-idx1-ubyte', np.arange(n, dtype=np.uint8) % 10, compress)


@pytest.mark.parametrize('inner', ['', 'FashionMNIST/raw'])
@pytest.mark.parametrize('compress', [True, False])
def test_fashion_mnist_from_debian_and_torchvision_folders(tmp_path: Path, inner: str, compress: bool) -> None:
    fashion(tmp_path / inner, compress)
    splits = load_data(DataConfig(name='fashion-mnist', path=str(tmp_path), channels=1))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50, 10, 20)
    assert splits.train[0][0].shape == (1, 32, 32)


@pytest.mark.skipif(not Path(FASHION_MNIST_PATHS[0]).is_dir(), reason='needs the package dataset-fashion-mnist')
def test_fashion_mnist_of_debian() -> None:
    splits = load_data(DataConfig(name='fashion-mnist', channels=1, train_samples=1000))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1000, 10_000, 10_000)


def test_broken_fashion_mnist(tmp_path: Path) -> None:
    config = DataConfig(name='fashion-mnist', path=str(tmp_path))
    with pytest.raises(DataError, match='apt-get install dataset-fashion-mnist'):
        load_data(config)
    fashion(tmp_path)
    for name, content, message in (
            ('train-images-idx3-ubyte.gz', b'not gzip', 'cannot read'),
            ('train-images-idx3-ubyte.gz', gzip.compress(b'\0\0\x08\x03' + b'\xff' * 12), 'or cut off'),
            ('train-labels-idx1-ubyte.gz', gzip.compress(b'\0\0\x08\x01\0\0\0\x01\x03'), '60 images and 1 labels')):
        fashion(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_data(config)


@pytest.mark.parametrize(('name', 'label_bytes', 'classes'), [('cifar10', 1, 10), ('cifar100', 2, 100)])
def test_cifar_binary_version(tmp_path: Path, name: str, label_bytes: int, classes: int) -> None:
    folder = tmp_path / ('cifar-10-batches-bin' if classes == 10 else 'cifar-100-binary')
    folder.mkdir()
    files = [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin'] if classes == 10 else [
        'train.bin', 'test.bin']
    for file in files:
        rows = np.random.default_rng(1).integers(0, 256, (60, label_bytes + 3072), np.uint8)
        rows[:, label_bytes - 1] = np.arange(60) % classes
        rows.tofile(folder / file)
    splits = load_data(DataConfig(name=name, path=str(tmp_path)))
    assert splits.num_classes == classes and splits.test[0][0].shape == (3, 32, 32) and splits.test[3][1] == 3
    (folder / files[-1]).write_bytes(b'123')
    with pytest.raises(DataError, match='no whole number'):
        load_data(DataConfig(name=name, path=str(tmp_path)))


def test_pickled_cifar_is_not_read(tmp_path: Path) -> None:
    (tmp_path / 'data_batch_1').write_bytes(pickle.dumps({'data': 1}))
    with pytest.raises(DataError, match='Python version holds pickles'):
        load_data(DataConfig(name='cifar10', path=str(tmp_path)))


def image_folder(root: Path, parts: list[str], per_class: int = 10) -> None:
    from PIL import Image
    for part in parts:
        for n, label in enumerate(('cat', 'dog')):
            (root / part / label).mkdir(parents=True)
            for i in range(per_class):
                Image.new('RGB', (20, 24), (n * 200, i, 9)).save(root / part / label / f'{i}.png')


@pytest.mark.parametrize(('parts', 'sizes'), [
    (['.'], (15, 2, 3)), (['train', 'val'], (17, 3, 20)), (['train', 'val', 'test'], (20, 20, 20)),
])
def test_image_folders(tmp_path: Path, parts: list[str], sizes: tuple[int, ...]) -> None:
    image_folder(tmp_path, parts)
    splits = load_data(DataConfig(name='imagefolder', path=str(tmp_path), image_size=16, channels=1))
    assert tuple(len(s) for s in (splits.train, splits.val, splits.test)) == sizes
    assert splits.num_classes == 2 and splits.train[0][0].shape == (1, 16, 16)


def test_broken_image_folders(tmp_path: Path) -> None:
    config = DataConfig(name='imagefolder', path=str(tmp_path))
    with pytest.raises(DataError, match='class folder'):
        load_data(config)
    image_folder(tmp_path, ['train'])
    with pytest.raises(DataError, match='neither val/ nor test/'):
        load_data(config)
    image_folder(tmp_path, ['test'])
    (tmp_path / 'test' / 'dog').rename(tmp_path / 'test' / 'cow')
    with pytest.raises(DataError, match='its classes differ from those of train/: cow, dog'):
        load_data(config)
