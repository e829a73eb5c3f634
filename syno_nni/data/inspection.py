"""A look at the data before anything is made of them: unreadable, blank, repeated or missing images are found now.

A search that trains on white squares ends in good order, with numbers that mean nothing.
"""
from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from syno_nni.errors import DataError

from .datasets import ImageArray, Splits
from .image_folder import ClassFolder, open_image, unused
from .own import labels_of

_DECODED = 3000
"""So many files of a split are decoded; of the others the ends are looked at, and suspicious ones are decoded too."""
_SEEN = 256
"""So many images of a split are looked at as the model gets them."""
_FLAT = 1e-3
# Spread of normalized pixels below which an image shows nothing.
_BLANK = 0.1
# Range of normalized pixels, about 6 of 256 levels, below which an image shows nothing to learn from.
_FAINT = 0.5
# The same where something is seen, but not much: 12 bits in a file of 16.
_MOST_FLAT = 0.5
_BAR_FROM = 5000
_ENOUGH = 20
# With so many images for every class, one without any is no accident of drawing few of them.
_HASHED_BYTES = 1 << 31


def inspect(splits: Splits) -> list[str]:
    """Look at a dataset; return what a person should know, one line each.

    Raises:
        DataError: an image cannot be read, most images are blank, a class has no image to train or test with, or
            labels do not fit the number of classes. The message names the first few.
    """
    parts = {'train': _Part.of(splits.train), 'validation': _Part.of(splits.val), 'test': _Part.of(splits.test)}
    notes: list[str] = []
    for name, part in parts.items():
        if not len(part.labels):
            raise DataError(f'{splits.source}: the {name} split is empty')
        notes += _check_labels(splits, name, part)
    folders = {id(base): base for base, _ in (_unwrapped(part.dataset) for part in parts.values())}
    notes += [line for base in folders.values() if isinstance(base, ClassFolder) for line in unused(base)]
    _check_files(splits.source, [path for part in parts.values() for path in part.files])
    for name, part in parts.items():
        notes += _check_pixels(splits, name, part)
    notes += _check_repeats(parts)
    return notes


@dataclass(frozen=True)
class _Part:
    """One split: its labels, the files it is read from (if any), and what identifies the content of every image."""
    dataset: Dataset
    labels: np.ndarray
    files: list[str]
    contents: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, dataset: Dataset) -> _Part:
        base, indices = _unwrapped(dataset)
        if isinstance(base, ClassFolder):
            files = [base.samples[i][0] for i in indices]
            return cls(dataset, np.array([base.targets[i] for i in indices]), files, lambda: map(_digest_of_file, files))
        if isinstance(base, ImageArray):
            return cls(dataset, base.labels[indices], [], lambda: map(_digest, base.pixels[indices]))
        return cls(dataset, labels_of(dataset), [], lambda: ())


def _unwrapped(dataset: Any) -> tuple[Any, list[int]]:
    """The dataset below all subsets, and which of its items are meant."""
    indices = list(range(len(dataset)))
    while isinstance(dataset, Subset):
        indices = [dataset.indices[i] for i in indices]
        dataset = dataset.dataset
    return dataset, indices


# --- labels ----------------------------------------------------------------------------------------------------------

def _check_labels(splits: Splits, name: str, part: _Part) -> Iterator[str]:
    labels = part.labels
    if labels.min() < 0 or labels.max() >= splits.num_classes:
        raise DataError(f'{splits.source}: labels of the {name} split go from {labels.min()} to {labels.max()}; wanted 0 to '
                        f'{splits.num_classes - 1}')
    counts = np.bincount(labels, minlength=splits.num_classes)
    base, _ = _unwrapped(part.dataset)
    names = getattr(base, 'classes', None) or [str(i) for i in range(splits.num_classes)]
    absent = [names[i] for i in np.flatnonzero(counts == 0)]
    if absent and name == 'train' and len(labels) >= _ENOUGH * splits.num_classes:
        raise DataError(f'{splits.source}: no image to train with of {_few(absent)}; give it more images, or '
                        'remove the class; where data.trainSamples is set, raise it')
    if absent:
        yield (f'the {name} split has no image of {_few(absent)}: ' + (
            'the model cannot learn these classes' if name == 'train' else 'accuracy says nothing about them'))
    elif name == 'train' and counts.max() >= 20 * counts.min():
        rare, common = counts.argmin(), counts.argmax()
        yield (f'classes differ much in size: {names[common]} has {counts[common]} images to train with, {names[rare]} has '
               f'{counts[rare]}')


# --- files -----------------------------------------------------------------------------------------------------------

def _check_files(source: str, paths: list[str]) -> None:
    """Whether every file can be read: some by decoding them, all by their ends."""
    if not paths:
        return
    step = max(1, len(paths) // _DECODED)

    def problem(item: tuple[int, str]) -> str | None:
        number, path = item
        if number % step == 0 or not _looks_whole(path):
            try:
                open_image(path)
            except DataError as error:
                return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        results = pool.map(problem, enumerate(paths))
        bar = tqdm(results, 'looking at the images', len(paths), disable=None if len(paths) >= _BAR_FROM else True, leave=False)
        bad = [text for text in bar if text is not None]
    if bad:
        more = f'; and {len(bad) - 1} more such files' if len(bad) > 1 else ''
        others = ', '.join(Path(text.partition(': cannot')[0]).name for text in bad[1:5])
        raise DataError(f'{bad[0]}{more}{f" ({others})" if others else ""}')


def _looks_whole(path: str) -> bool:
    """Whether a JPEG or PNG file begins and ends as it should; other formats need decoding."""
    with open(path, 'rb') as file:
        head = file.read(8)
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 64))
        tail = file.read().rstrip(b'\0')
    if head[:3] == b'\xff\xd8\xff':
        return tail.endswith(b'\xff\xd9')
    return head == b'\x89PNG\r\n\x1a\n' and b'IEND' in tail


# --- pixels ----------------------------------------------------------------------------------------------------------

def _check_pixels(splits: Splits, name: str, part: _Part) -> Iterator[str]:
    chosen = np.linspace(0, len(part.labels) - 1, min(_SEEN, len(part.labels))).astype(int)
    flat: list[int] = []
    grey, widest = True, 0.0
    for index in chosen:
        image = torch.as_tensor(part.dataset[index][0])
        if image.ndim != 3 or len(image) != splits.channels:
            raise DataError(f'{splits.source}: image {index} of the {name} split has shape {tuple(image.shape)}, wanted '
                            f'{splits.channels} channels, height and width')
        if not torch.isfinite(image).all():
            raise DataError(f'{_name(part, index)}: pixels of the {name} split are not finite numbers')
        contrast = float(image.amax((1, 2)).sub(image.amin((1, 2))).max())
        widest = max(widest, contrast)
        if float(image.std()) < _FLAT or contrast < _BLANK:
            flat.append(int(index))
        if grey and splits.channels == 3 and part.files:
            grey = _is_grey(part.files[index])
    if len(flat) > _MOST_FLAT * len(chosen):
        raise DataError(f'{splits.source}: {len(flat)} of {len(chosen)} images of the {name} split show hardly any '
                        f'contrast, such as {_name(part, flat[0])}; look at them: a wrong format, bit depth or crop?')
    if widest < _FAINT:
        yield (f'images of the {name} split have hardly any contrast, such as {_name(part, int(chosen[0]))}: stretch their '
               'pixels to the full range (that of 16-bit files is 0 to 65535)')
    if flat:
        yield (f'{len(flat)} of {len(chosen)} images of the {name} split that were looked at show hardly any contrast, '
               f'such as {_name(part, flat[0])}')
    if name == 'train' and splits.channels == 3 and part.files and grey:
        yield 'all images that were looked at are grey: with data.channels 1 models are a little smaller'
    if name == 'train' and splits.channels == 1 and part.files and not all(_is_grey(part.files[i]) for i in chosen[:32]):
        yield 'images are in colour, and data.channels 1 reads them as grey'


def _is_grey(path: str) -> bool:
    image = open_image(path)
    if image.mode == 'L':
        return True
    pixels = np.asarray(image)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())


def _name(part: _Part, index: int) -> str:
    return part.files[index] if part.files else f'number {index}'


# --- the same image twice --------------------------------------------------------------------------------------------

def _check_repeats(parts: dict[str, _Part]) -> Iterator[str]:
    """Images of one split that are in another one too, and equal images with different labels."""
    if sum(Path(path).stat().st_size for part in parts.values() for path in part.files) > _HASHED_BYTES:
        yield 'too many bytes to look for images that are in several splits'
        return
    found: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)
    for name, part in parts.items():
        for index, content in enumerate(part.contents()):
            found[content].append((name, index, int(part.labels[index])))
    for other in ('validation', 'test'):
        shared = [places for places in found.values() if {'train', other} <= {name for name, *_ in places}]
        if shared:
            total = sum(name == other for places in shared for name, *_ in places)
            train, held = (next(p for p in shared[0] if p[0] == name) for name in ('train', other))
            yield (f'leakage: {total} of {len(parts[other].labels)} images of the {other} split are in the train split too, '
                   f'such as {_name(parts[other], held[1])} and {_name(parts["train"], train[1])}; accuracy there is too good')
    if odd := [places for places in found.values() if len({label for *_, label in places}) > 1]:
        (name, index, _), (other_name, other_index, _) = odd[0][0], next(p for p in odd[0] if p[2] != odd[0][0][2])
        yield (f'{len(odd)} images are in more than one class, such as {_name(parts[name], index)} and '
               f'{_name(parts[other_name], other_index)}')


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=12).digest()


def _digest_of_file(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=12).digest()


def _few(names: list[str], most: int = 5) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
