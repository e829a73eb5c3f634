"""Datasets: training, validation and test splits of images, as torch datasets of ``(float32 [C, H, W], label)``.

===============  ==============================================================================================
``digits``       scikit-learn's 1797 handwritten digits (8x8); needs no files
``fashion-mnist``  70000 28x28 images in IDX files: Debian's ``apt-get install dataset-fashion-mnist`` puts them into
                 ``/usr/share/datasets/fashion-mnist``; ``data.path`` may name another folder (torchvision's too)
``cifar10``, ``cifar100``  60000 32x32 images in ``data.path``: the *binary* version of the dataset's home page
``imagefolder``  one folder per class below ``data.path`` or below its ``train``, ``val`` and ``test`` folders
===============  ==============================================================================================

Splits are deterministic. ``data.seed`` only decides what of the training images becomes the validation split; the test
split never depends on it. Pixels are normalized with the training split's mean and standard deviation (ImageNet's for
``imagefolder``).
"""
from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, Subset

from syno_nni.errors import DataError
from syno_nni.files import DATASET_BYTES, exists, is_directory, open_file, read_bytes

from .config import DataConfig
from .image_folder import ClassFolder
from .own import own_splits
from .splits import Splits, first, halved

FASHION_MNIST_PATHS = ('/usr/share/datasets/fashion-mnist', '~/.cache/fashion-mnist')
"""Where Fashion-MNIST is looked for when ``data.path`` does not say."""
_RESIZE_FROM = 1.5
"""Enlarging by less than this pads with black instead, which keeps the pixels."""
_TEST_SEED = 0
_FEWEST = 7
"""With so many images, each split of a folder has one."""
_VAL_FOLDERS = ('val', 'valid', 'validation')
_SPLIT_NAMES = {'train', 'training', 'test', 'testing', 'dev', *_VAL_FOLDERS}


def load_data(config: DataConfig, code: str | Path | None = None) -> Splits:
    """The splits that ``config`` describes.

    Args:
        config: of the data.
        code: folder of the modules that ``config.factory`` names.

    Raises:
        DataError: files are missing or malformed; the message says how to get them.
        ConfigError: the function that should make them is missing, or fails.
    """
    splits = own_splits(config, code) if config.factory is not None else _known(config)
    return halved(splits, config.seed) if config.validation == 'test' else splits


def _known(config: DataConfig) -> Splits:
    match config.name:
        case 'digits':
            return _digits(config)
        case 'fashion-mnist':
            return _fashion_mnist(config)
        case 'imagefolder':
            return _image_folder(config)
        case _:
            return _cifar(config)


class ImageArray(Dataset):
    """Images in memory as bytes, ``[n, c, h, w]``, prepared when they are read: resized to ``image_size``, normalized,
    and given the wanted number of channels (1 or 3). Whole batches are prepared at once."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, config: DataConfig,
                 statistics: tuple[Tensor, Tensor]) -> None:
        self._images = torch.from_numpy(np.array(images))  # a copy: it must be writable
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._size, self._channels = config.image_size, config.channels
        self._mean, self._std = statistics

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> np.ndarray:
        """The label of every image."""
        return self._labels.numpy()

    @property
    def pixels(self) -> np.ndarray:
        """The images as they are kept: bytes, ``[n, c, h, w]``."""
        return self._images.numpy()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What torch's DataLoader calls for a batch."""
        chosen = torch.as_tensor(indices)
        images = self._images[chosen].float().div_(255)
        if images.shape[1] > self._channels:
            images = images.mean(1, keepdim=True)
        images = _to_size((images - self._mean) / self._std, self._size, -self._mean / self._std)
        images = images.expand(-1, self._channels, -1, -1)
        return list(zip(images, self._labels[chosen], strict=True))


def _to_size(images: Tensor, size: int, black: Tensor) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c, size, size]``: small enlargements pad with ``black``, others interpolate."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    if max(height, width) <= size < _RESIZE_FROM * min(height, width):
        framed = black.expand(len(images), images.shape[1], size, size).clone()
        top, left = (size - height) // 2, (size - width) // 2
        framed[:, :, top:top + height, left:left + width] = images
        return framed
    return functional.interpolate(images, (size, size), mode='bilinear', antialias=True)


# --- the datasets ----------------------------------------------------------------------------------------------------

def _digits(config: DataConfig) -> Splits:
    from sklearn.datasets import load_digits
    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)[:, None]
    rest, test = _carve(bunch.target, len(images) // 5, _TEST_SEED)
    return _array_splits((images[rest], bunch.target[rest]), (images[test], bunch.target[test]), config,
                         'scikit-learn digits')


def _fashion_mnist(config: DataConfig) -> Splits:
    folder = _fashion_mnist_folder(config.path)
    train, test = ((_read_idx(folder, f'{part}-images-idx3-ubyte', 3)[:, None],
                    _read_idx(folder, f'{part}-labels-idx1-ubyte', 1)) for part in ('train', 't10k'))
    for images, labels in (train, test):
        if len(images) != len(labels) or not len(labels) or labels.max() > 9:
            raise DataError(f'{folder}: {len(images)} images and {len(labels)} labels do not fit each other; get the '
                            'files anew')
    return _array_splits(train, test, config, f'Fashion-MNIST in {folder}')


def _fashion_mnist_folder(path: str | None) -> Path:
    roots = [Path(p).expanduser() for p in ([path] if path else FASHION_MNIST_PATHS)]
    for root in roots:
        for folder in (root, root / 'FashionMNIST' / 'raw', root / 'raw'):
            if any(exists(folder / f'train-images-idx3-ubyte{end}') for end in ('.gz', '')):
                return folder
    raise DataError(f'Fashion-MNIST is not in {" or ".join(map(str, roots))}: on Debian and Ubuntu, apt-get install '
                    'dataset-fashion-mnist; elsewhere, put the four *-ubyte.gz files into a folder and name it in '
                    'data.path')


def _read_idx(folder: Path, name: str, rank: int) -> np.ndarray:
    """The bytes of an IDX file, gzipped or not."""
    path = folder / f'{name}.gz'
    try:
        if exists(path):
            with open_file(path, limit=DATASET_BYTES, error=DataError, what='the data') as packed, gzip.open(packed) as file:
                data = file.read(DATASET_BYTES)
        else:
            path = folder / name
            data = read_bytes(path, limit=DATASET_BYTES, error=DataError, what='the data')
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f'{path}: cannot read: {getattr(error, "strerror", None) or error}') from None
    head = 4 + 4 * rank
    shape = tuple(int(n) for n in np.frombuffer(data[4:head], '>u4')) if len(data) >= head else ()
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) - head != int(np.prod(shape, dtype=object)):
        raise DataError(f'{path}: not an IDX file of {rank}-dimensional bytes, or cut off; get it anew')
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _cifar(config: DataConfig) -> Splits:
    fine = config.name == 'cifar100'
    folder = Path(config.path or '.').expanduser()
    inner = folder / ('cifar-100-binary' if fine else 'cifar-10-batches-bin')
    folder = inner if is_directory(inner) else folder
    parts = ['train.bin'] if fine else [f'data_batch_{i}.bin' for i in range(1, 6)]
    train = [_read_cifar(folder / part, 2 if fine else 1) for part in parts]
    joined = np.concatenate([i for i, _ in train]), np.concatenate([t for _, t in train])
    test = _read_cifar(folder / ('test.bin' if fine else 'test_batch.bin'), 2 if fine else 1)
    return _array_splits(joined, test, config, f'{config.name} in {folder}', 100 if fine else 10)


def _read_cifar(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    record = label_bytes + 3 * 32 * 32
    try:
        data = np.frombuffer(read_bytes(path, limit=DATASET_BYTES, error=DataError, what='the data'), np.uint8)
    except DataError as error:
        raise DataError(f'{error}; unpack the binary version of CIFAR there (the Python version holds pickles, which can run '
                        'code and are not read)') from None
    if not len(data) or len(data) % record:
        raise DataError(f'{path}: {len(data)} bytes are no whole number of {record}-byte records; get it anew')
    rows = data.reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1]


def _image_folder(config: DataConfig) -> Splits:
    root = Path(config.path or '.').expanduser()
    if not is_directory(root):
        raise DataError(f'no image folder {root}: set data.path to a folder with one folder of images per class')
    source, divided = f'images in {root}', (root / 'train').is_dir()
    whole = ClassFolder(root / 'train' if divided else root, config)
    if not divided and all(name.lower() in _SPLIT_NAMES for name in whole.classes):
        raise DataError(f'{source}: the folders {", ".join(whole.classes)} would be classes, and look like splits; name them '
                        'train, val and test')
    if len(whole.classes) < 2:
        raise DataError(f'{source}: there is one class only, and a classifier needs at least two; put the images of each class '
                        'into a folder of its own')
    if not divided:
        if len(whole) < _FEWEST:
            raise DataError(f'{source}: {len(whole)} images are too few to be divided into training, validation and test '
                            f'images; wanted at least {_FEWEST}, and many more to learn from')
        rest, test = _carve(np.array(whole.targets), len(whole) * 3 // 20, _TEST_SEED)
        return _folder_splits(whole, rest, Subset(whole, test.tolist()), config, source)
    val, test_folder = (next((root / n for n in names if (root / n).is_dir()), None) for names in (_VAL_FOLDERS, ('test',)))
    held_out = test_folder or val
    if held_out is None:
        raise DataError(f'{root} has train/ but neither val/ nor test/: add one of them')
    test_set = ClassFolder(held_out, config, whole.classes)
    if val is None or test_folder is None:
        return _folder_splits(whole, np.arange(len(whole)), test_set, config, source)
    val_set = ClassFolder(val, config, whole.classes)
    return Splits(first(whole, config.train_samples, config.seed),
                  first(val_set, config.val_samples, config.seed), test_set,
                  len(whole.classes), config.channels, config.image_size, source)


def _folder_splits(whole: ClassFolder, rest: np.ndarray, test: Dataset, config: DataConfig, source: str) -> Splits:
    """Training and validation images from ``rest`` of a folder."""
    train, val = _train_and_val(np.array(whole.targets)[rest], config, source)
    return Splits(Subset(whole, rest[train].tolist()), Subset(whole, rest[val].tolist()), test, len(whole.classes),
                  config.channels, config.image_size, source)


# --- splitting -------------------------------------------------------------------------------------------------------

def _array_splits(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], config: DataConfig,
                  source: str, num_classes: int = 10) -> Splits:
    images, labels = train
    chosen, held_out = _train_and_val(labels, config, source)
    sample = images[chosen].astype(np.float32) / 255
    if config.channels == 1:
        sample = sample.mean(axis=1, keepdims=True)
    mean, std = (torch.from_numpy(f(sample, axis=(0, 2, 3))).view(-1, 1, 1) for f in (np.mean, np.std))
    statistics = mean, std.clamp(min=1e-3)
    return Splits(ImageArray(images[chosen], labels[chosen], config, statistics),
                  ImageArray(images[held_out], labels[held_out], config, statistics),
                  ImageArray(*test, config, statistics), num_classes, config.channels, config.image_size, source)


def _train_and_val(labels: np.ndarray, config: DataConfig, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and validation images: ``valSamples`` (a sixth by default) are held out."""
    total = len(labels)
    held_out = config.val_samples or total // 6
    if held_out < 1:
        raise DataError(f'{source}: {total} images are too few to be divided into training and validation images; wanted at '
                        'least 6, and many more to learn from')
    wanted = config.train_samples or max(total - held_out, 1)
    if held_out + wanted > total:
        asked = [f'data.trainSamples = {wanted}'] * bool(config.train_samples)
        asked += [f'data.valSamples = {held_out}'] if config.val_samples else [f'{held_out} to validate with (a sixth)']
        raise DataError(f'{source}: wanted {" and ".join(asked)}, but there are only {total} images to train and validate '
                        'with; ask for fewer')
    train, val = _carve(labels, held_out, config.seed)
    return train[:wanted], val


def _carve(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled indices split into ``(rest, chosen)``, with ``size`` chosen so that classes keep their shares.

    numpy promises that RandomState's streams never change, so neither do the splits.
    """
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    # Position within the class, in [0, 1): a cut through it takes the same share of every class.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + random.random_sample()) / len(members)
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[shuffled[np.argsort(place[shuffled], kind='stable')[:size]]] = True
    return shuffled[~chosen[shuffled]], shuffled[chosen[shuffled]]
