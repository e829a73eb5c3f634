"""Data files that are cut off, or hold something else: each is one line that names the file, or still the data."""
from __future__ import annotations

import gzip
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syno_nni.data.config import DataConfig
from syno_nni.data.datasets import load_data
from syno_nni.data.inspection import inspect
from syno_nni.errors import DataError


def _idx(path: Path, array: np.ndarray) -> None:
    data = bytes((0, 0, 8, array.ndim)) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == '.gz' else data)


def _fashion(folder: Path, end: str = '.gz') -> None:
    chance = np.random.default_rng(0)
    for part, n in (('train', 120), ('t10k', 40)):
        _idx(folder / f'{part}-images-idx3-ubyte{end}', chance.integers(0, 256, (n, 28, 28), np.uint8))
        _idx(folder / f'{part}-labels-idx1-ubyte{end}', np.arange(n, dtype=np.uint8) % 10)


def _cifar10(folder: Path) -> None:
    for name in (*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin'):
        _cifar(folder / name, 1, 10)


def _cifar100(folder: Path) -> None:
    for name in ('train.bin', 'test.bin'):
        _cifar(folder / name, 2, 100)


def _cifar(path: Path, label_bytes: int, classes: int) -> None:
    rows = np.random.default_rng(len(path.name)).integers(0, 256, (2 * classes, label_bytes + 3072), np.uint8)
    rows[:, label_bytes - 1] = np.arange(len(rows)) % classes
    rows.tofile(path)


def _images(folder: Path) -> None:
    chance = np.random.default_rng(0)
    for part in ('train', 'val', 'test'):
        for n, name in enumerate(('cat', 'dog')):
            (folder / part / name).mkdir(parents=True)
            for i, kind in enumerate(('png', 'jpg', 'bmp', 'gif', 'webp', 'tiff', 'png', 'jpg')):
                pixels = chance.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f'{n}{i}.{kind}')


DATASETS: dict[str, tuple[str, Callable[[Path], None]]] = {
    'fashion-mnist': ('fashion-mnist', _fashion), 'fashion-mnist, unpacked': ('fashion-mnist', lambda f: _fashion(f, '')),
    'cifar10': ('cifar10', _cifar10), 'cifar100': ('cifar100', _cifar100), 'imagefolder': ('imagefolder', _images)}


def _damages(data: bytes, chance: random.Random) -> dict[str, bytes]:
    """What a crash, a full disk, a bad disk, a proxy or a mix-up makes of a file."""
    at = [chance.randrange(len(data)) for _ in range(4)]
    flipped = bytearray(data)
    flipped[at[0]] ^= 1 << chance.randrange(8)
    half, size, cut, other, hole = len(data) // 2, len(data), *at[1:4]
    return {'empty': b'', 'one byte': data[:1], 'cut in its head': data[:9], f'cut at {cut}': data[:cut],
            f'cut at {other}': data[:other], 'without its last byte': data[:-1], 'with a byte more': data + b'x',
            'a bit flipped': bytes(flipped), 'zeros from the middle on': data[:half] + bytes(size - half),
            'all zeros': bytes(size), 'a hole': data[:hole] + data[hole + 1 + chance.randrange(500):],
            'noise': chance.randbytes(size), 'noise in its head': chance.randbytes(16) + data[16:],
            'a page of HTML': b'<!DOCTYPE html><h1>404 Not Found</h1>\n', 'twice': data + data,
            'packed once more': gzip.compress(data), 'sizes that are huge': data[:4] + b'\xff' * 12 + data[16:],
            'sizes of nothing': data[:4] + bytes(12) + data[16:], 'a pickle': b'\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.'}


@pytest.mark.parametrize('dataset', DATASETS)
def test_every_file_damaged_in_every_way(tmp_path: Path, dataset: str) -> None:
    name, make = DATASETS[dataset]
    chance, folder = random.Random(dataset), tmp_path / 'whole'
    folder.mkdir()
    make(folder)
    config = DataConfig(name=name, path=str(folder), image_size=16)
    inspect(load_data(config))
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    refused = 0
    # Of files that are alike, a few.
    for file in chance.sample(files, min(len(files), 8)):
        whole = file.read_bytes()
        for what, content in _damages(whole, chance).items():
            file.write_bytes(content)
            refused += _refused(config, folder, f'{file.name}: {what}')
        file.unlink()
        refused += _refused(config, folder, f'{file.name}: missing')
        file.mkdir()
        refused += _refused(config, folder, f'{file.name}: a folder')
        file.rmdir()
        file.write_bytes(whole)
    inspect(load_data(config))
    assert refused > 20, 'most damages are noticed'


def _refused(config: DataConfig, folder: Path, what: str) -> bool:
    """Whether the data are refused, in one line. If not, every image can be read."""
    try:
        splits = load_data(config)
        inspect(splits)
        for split in (splits.train, splits.val, splits.test):
            for i in range(len(split)):  # type: ignore[arg-type]
                image, label = split[i]
                assert image.shape == (3, 16, 16) and image.isfinite().all() and 0 <= int(label) < splits.num_classes, what
    except DataError as error:
        assert str(folder) in str(error) and '\n' not in str(error) and len(str(error)) < 700, (what, str(error))
        return True
    except Exception as error:
        raise AssertionError(f'{what}: {type(error).__name__}: {error}') from error
    return False


def test_files_that_belong_to_another_dataset(tmp_path: Path) -> None:
    for name, make in DATASETS.values():
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
    for name in ('fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'):
        for other in ('fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'):
            if name != other:
                with pytest.raises(DataError) as raised:
                    inspect(load_data(DataConfig(name=name, path=str(tmp_path / other), image_size=16)))
                assert '\n' not in str(raised.value)
