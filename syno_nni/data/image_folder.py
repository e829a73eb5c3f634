"""Folders of images: one folder per class, read as a person sees the files.

torchvision's own reader turns 16-bit images white (it clips them to 8 bits), takes ``.ipynb_checkpoints`` for a class,
ignores the rotation that a camera notes down, and does not name the file that it cannot read.
"""
from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.datasets import ImageFolder

from syno_nni.errors import DataError
from syno_nni.files import IMAGE_BYTES, check_file

from .config import DataConfig

_STATISTICS = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
_HIDDEN = ('.', '_', '@')
# Folders of notebooks, archives and file servers: .ipynb_checkpoints, __MACOSX, @eaDir.
_UNREAD = {'.arw', '.avif', '.cr2', '.dcm', '.dng', '.exr', '.heic', '.heif', '.ico', '.jxl', '.nef', '.npy', '.psd', '.svg',
           '.tga'}
# Images of other kinds, unless Pillow reads them here.
_WIDEST = 2 ** 16 - 1


class ClassFolder(ImageFolder):
    """The images of one split, resized to ``config.image_size``, cropped to a square and normalized.

    ``classes`` are those of the training split, which this one must have too.

    Raises:
        DataError: there is no folder of images, a class has none, or the classes differ; later, when an image is
            read: it cannot be, and the message names it.
    """

    def __init__(self, folder: Path, config: DataConfig, classes: Sequence[str] | None = None) -> None:
        prepare = transforms.Compose([
            transforms.Resize(config.image_size), transforms.CenterCrop(config.image_size), transforms.ToTensor(),
            transforms.Normalize(*_STATISTICS[config.channels])])
        read = functools.partial(open_image, mode='L' if config.channels == 1 else 'RGB')
        try:
            super().__init__(str(folder), prepare, loader=read, is_valid_file=_is_image)
        except (OSError, RuntimeError) as error:
            raise DataError(f'{folder}: {" ".join(str(error).split())}') from None
        if classes is not None and self.classes != list(classes):
            odd = sorted(set(self.classes) ^ set(classes))
            raise DataError(f'{folder}: its classes differ from those of train/: {", ".join(odd[:5])}')

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The class folders, but for hidden ones."""
        names = sorted(entry.name for entry in os.scandir(directory)
                       if entry.is_dir() and not entry.name.startswith(_HIDDEN))
        if not names:
            raise FileNotFoundError('no class folder is in it; put the images of each class into a folder of its own')
        return names, {name: number for number, name in enumerate(names)}

    @staticmethod
    def make_dataset(directory: str, class_to_idx: dict[str, int], extensions: tuple[str, ...] | None = None,
                     is_valid_file: object = None, allow_empty: bool = False) -> list[tuple[str, int]]:
        """The files of every class with its number."""
        found = [(str(path), number) for name, number in sorted(class_to_idx.items())
                 for path in sorted(Path(directory, name).rglob('*')) if _is_image(str(path))]
        have = {number for _, number in found}
        if missing := [name for name, number in class_to_idx.items() if number not in have]:
            raise FileNotFoundError(f'no image in {", ".join(missing[:5])}; known are files that end in '
                                    f'{", ".join(sorted(_extensions()))}')
        return found


def unused(folder: ClassFolder) -> list[str]:
    """What lies in the folder and is no image that is read, but probably meant to be one: a line for each kind."""
    root, kinds = Path(folder.root), _UNREAD - _extensions()
    seen = [p for name in folder.classes for p in Path(root, name).rglob('*')
            if p.suffix.lower() in kinds and not p.name.startswith('.')]
    beside = [p for p in root.iterdir() if _is_image(str(p)) and p.is_file()]
    lines = [f'{len(seen)} files are not read, such as {min(seen)}: save them as PNG or JPEG'] if seen else []
    return lines + ([f'{len(beside)} images lie beside the folders of classes and are not used, such as {min(beside)}']
                    if beside else [])


def _extensions() -> set[str]:
    Image.init()
    return {extension for extension, kind in Image.EXTENSION.items() if kind in
            ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')}


def _is_image(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith('.') and os.path.splitext(name)[1].lower() in _extensions()


def open_image(path: str | os.PathLike[str], mode: Literal['L', 'RGB', 'as it is'] = 'as it is') -> Image.Image:
    """An image file as 8-bit grey (``L``) or colour (``RGB``), turned as its camera was held.

    Integers of 16 bits are scaled by their full range and fractions from 0..1, so that grey stays grey. What is
    transparent shows white.

    Raises:
        DataError: names the file, and says why it is no image that can be read.
    """
    try:
        check_file(path, limit=IMAGE_BYTES, error=DataError, what='the image')
        with warnings.catch_warnings():
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                image = _eight_bits(ImageOps.exif_transpose(file), path)
                return image if mode == 'as it is' else image.convert(mode)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        why = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
        raise DataError(f'{path}: cannot read this image ({why[:200]}); replace or remove it') from None


def _eight_bits(image: Image.Image, path: object) -> Image.Image:
    if image.mode.startswith(('I', 'F')):
        return _scaled(np.asarray(image), path)
    if image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info:
        opaque = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', opaque.size, 'white'), opaque)
    return image.convert('L' if image.mode in ('1', 'L') else 'RGB')


def _scaled(pixels: np.ndarray, path: object) -> Image.Image:
    """Wide integers and fractions as bytes."""
    if pixels.dtype.kind == 'f':
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
            raise DataError(f'{path}: pixels are fractions from {pixels.min():g} to {pixels.max():g}; wanted 0 to 1')
        top = 1.0 if pixels.max() <= 1 else 255.0
    else:
        if pixels.min() < 0 or pixels.max() > _WIDEST:
            raise DataError(f'{path}: pixels are integers from {pixels.min()} to {pixels.max()}; wanted at most 16 bits')
        top = float(_WIDEST)
    return Image.fromarray((pixels * (255 / top)).round().astype(np.uint8))
