"""What people's folders of images hold, and what a search must not train on without a word."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syno_nni.data import DataConfig, load_data
from syno_nni.data.image_folder import open_image
from syno_nni.data.inspection import inspect
from syno_nni.errors import DataError, SynoError
from syno_nni.run.config import SearchConfig
from syno_nni.search.run import run_search

RANDOM = np.random.default_rng(0)


def noise(*shape: int, top: int = 255, kind: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(0, top + 1, shape).astype(kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in three splits, 12 images each."""
    for part in ('train', 'val', 'test'):
        for label in ('cat', 'dog'):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(12):
                Image.fromarray(noise(24, 20, 3)).save(tmp_path / part / label / f'{i}.png')
    return tmp_path


def config(folder: Path, **changes: object) -> DataConfig:
    return DataConfig(name='imagefolder', path=str(folder), image_size=16, **changes)


def load(folder: Path, **changes: object) -> list[str]:
    return inspect(load_data(config(folder, **changes)))


def test_a_sound_folder_needs_no_words(folder: Path) -> None:
    assert load(folder) == []


@pytest.mark.parametrize(('kind', 'top', 'extension'), [
    (np.uint16, 65535, 'png'), (np.uint16, 65535, 'tif'), (np.int32, 65535, 'tif'), (np.float32, 255, 'tif'),
])
def test_wide_pixels_stay_grey(tmp_path: Path, kind: type, top: int, extension: str) -> None:
    """vision#2218: 16-bit images load all white."""
    ramp = np.linspace(0, top, 256).reshape(16, 16).astype(kind)
    Image.fromarray(ramp).save(tmp_path / f'ramp.{extension}')
    pixels = np.asarray(open_image(tmp_path / f'ramp.{extension}')).astype(int)
    assert pixels.min() == 0 and pixels.max() == 255 and abs(pixels.mean() - 127) < 2
    assert (np.diff(pixels.ravel()) >= 0).all()


def test_a_search_sees_16_bit_images(folder: Path) -> None:
    """vision#2218, in the batches that a model gets."""
    for path in folder.rglob('*.png'):
        Image.fromarray(noise(24, 20, top=65535, kind=np.uint16)).save(path)
    splits = load_data(config(folder))
    image, _ = splits.train[0]
    assert image.shape == (3, 16, 16) and float(image.std()) > 0.2
    assert load(folder) == ['all images that were looked at are grey: with data.channels 1 models are a little smaller']


def test_odd_modes_look_as_they_do_to_a_person(tmp_path: Path) -> None:
    """Palettes, ink, bits, transparency, and the rotation that a camera notes down (Pillow#4537)."""
    red = Image.new('RGB', (8, 4), (255, 0, 0))
    for mode, name in (('P', 'a.png'), ('CMYK', 'a.jpg'), ('RGBA', 'b.png'), ('RGB', 'a.webp'), ('RGB', 'a.bmp')):
        red.convert(mode).save(tmp_path / name)
        pixels = np.asarray(open_image(tmp_path / name)).astype(int)
        assert pixels.shape == (4, 8, 3) and (abs(pixels - (255, 0, 0)) < 12).all(), name
    Image.fromarray(noise(4, 8) > 127).save(tmp_path / 'bits.png')
    assert set(np.unique(np.asarray(open_image(tmp_path / 'bits.png')))) == {0, 255}
    drawing = Image.new('RGBA', (8, 4), (0, 0, 0, 0))
    drawing.putpixel((0, 0), (0, 0, 0, 255))
    drawing.save(tmp_path / 'drawing.png')
    pixels = np.asarray(open_image(tmp_path / 'drawing.png'))
    assert pixels[0, 0].max() == 0 and pixels[1:].min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(tmp_path / 'turned.jpg', exif=exif)
    assert open_image(tmp_path / 'turned.jpg').size == (4, 8)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])


@pytest.mark.parametrize('spoil', [
    _cut, lambda path: path.write_bytes(b''), lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n' + b'no' * 40),
    lambda path: path.write_text('<html>404</html>'),
])
@pytest.mark.parametrize('extension', ['png', 'jpg', 'webp'])
def test_the_file_that_cannot_be_read_is_named(folder: Path, spoil: Callable[[Path], object], extension: str) -> None:
    """vision#485: 'image file is truncated' without saying which."""
    bad = folder / 'val' / 'dog' / f'odd name.{extension}'
    Image.fromarray(noise(64, 64, 3)).save(bad)
    spoil(bad)
    with pytest.raises(DataError, match=r'odd name\.\w+: (cannot read this image|it is empty)') as caught:
        load(folder)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('top, refused', [(255, True), (1023, True), (4095, False), (65535, False)])
def test_few_bits_in_a_file_of_16_are_no_silent_black(folder: Path, top: int, refused: bool) -> None:
    """vision#2218, the other way round: 8, 10 or 12 bits in files of 16 load nearly black."""
    for path in folder.rglob('*.png'):
        Image.fromarray(noise(24, 20, top=top, kind=np.uint16)).save(path)
    splits = load_data(config(folder))
    if refused:
        with pytest.raises(DataError, match='hardly any contrast.*bit depth'):
            inspect(splits)
    else:
        assert any('hardly any contrast' in note for note in inspect(splits)) == (top < 65535)


def test_an_image_that_breaks_later_is_named_too(folder: Path) -> None:
    splits = load_data(config(folder))
    for path in folder.rglob('*.png'):
        _cut(path)
    with pytest.raises(DataError, match=r'\.png: cannot read this image'):
        splits.test[0]


@pytest.mark.parametrize('hidden', ['.ipynb_checkpoints', '__MACOSX', '@eaDir', '.DS_Store'])
def test_folders_that_programs_leave_are_no_classes(folder: Path, hidden: str) -> None:
    """mmpretrain#507: .ipynb_checkpoints becomes a class."""
    for part in ('train', 'val', 'test'):
        (folder / part / hidden).mkdir()
        Image.fromarray(noise(8, 8, 3)).save(folder / part / hidden / 'x-checkpoint.png')
        (folder / part / 'cat' / '._1.png').write_bytes(b'\0\5\x16\7 of a Mac')
        (folder / part / 'cat' / 'Thumbs.db').write_bytes(b'not an image')
    assert load_data(config(folder)).num_classes == 2
    assert load(folder) == []


def test_one_class_is_said_before_anything_is_made(tmp_path: Path) -> None:
    """AIDeveloper#60: one class only, found out by the metric of the first epoch."""
    for part in ('train', 'test'):
        (tmp_path / 'data' / part / 'cat').mkdir(parents=True)
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / 'data' / part / 'cat' / '1.png')
    search = SearchConfig.from_dict({'model': {'name': 'resnet10t'}, 'engine': 'sequential', 'data': {
        'name': 'imagefolder', 'path': str(tmp_path / 'data'), 'imageSize': 32, 'valSamples': 1}})
    with pytest.raises(SynoError, match=r'one class only|no image'):
        run_search(search, tmp_path / 'run', tell=lambda line: None)
    assert not (tmp_path / 'run').exists()


def test_white_images_are_refused(folder: Path) -> None:
    for path in (folder / 'train').rglob('*.png'):
        Image.new('RGB', (20, 20), 'white').save(path)
    with pytest.raises(DataError, match=r'24 of 24 images of the train split show hardly any contrast, such as .*\.png'):
        load(folder)


def test_a_few_white_images_are_told(folder: Path) -> None:
    Image.new('RGB', (20, 20), 'white').save(folder / 'train' / 'cat' / '3.png')
    (note,) = load(folder)
    assert note.startswith('1 of 24 images of the train split') and '3.png' in note


def test_leakage_between_splits_is_told(folder: Path) -> None:
    for i in range(5):
        (folder / 'test' / 'cat' / f'copy{i}.png').write_bytes((folder / 'train' / 'cat' / f'{i}.png').read_bytes())
    (note,) = load(folder)
    assert note.startswith('leakage: 5 of 29 images of the test split are in the train split too')


def test_an_image_in_two_classes_is_told(folder: Path) -> None:
    (folder / 'train' / 'cat' / 'copy.png').write_bytes((folder / 'train' / 'dog' / '2.png').read_bytes())
    (note,) = load(folder)
    assert note.startswith('1 images are in more than one class') and 'copy.png' in note


def test_classes_without_images(folder: Path) -> None:
    for path in (folder / 'test' / 'dog').glob('*.png'):
        path.unlink()
    with pytest.raises(DataError, match=r'test: no image in dog; known are files that end in .*\.jpeg'):
        load(folder)


def test_classes_that_differ_in_size_are_told(folder: Path) -> None:
    for i in range(300):
        Image.fromarray(noise(8, 8, 3)).save(folder / 'train' / 'cat' / f'more{i}.png')
    (note,) = load(folder)
    assert note == 'classes differ much in size: cat has 312 images to train with, dog has 12'


def test_colour_that_is_dropped_is_told(folder: Path) -> None:
    assert load(folder, channels=1) == ['images are in colour, and data.channels 1 reads them as grey']


def test_a_pipe_among_the_images_is_named(folder: Path) -> None:
    import os
    os.mkfifo(folder / 'train' / 'cat' / 'pipe.png')
    with pytest.raises(DataError, match=r'pipe\.png: it is a named pipe, not a regular file'):
        load(folder)


def test_embedded_data_are_sound() -> None:
    assert inspect(load_data(DataConfig(image_size=8))) == []


def few(folder: Path, part: str, images: int) -> Path:
    for n in range(images):
        (folder / part / f'class{n % 2}').mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(24, 20, 3)).save(folder / part / f'class{n % 2}' / f'{n}.png')
    return folder


@pytest.mark.parametrize(('part', 'images', 'changes', 'words'), [
    ('', 3, {}, '3 images are too few'), ('', 6, {}, '6 images are too few'), ('train', 4, {}, '4 images are too few'),
    ('', 20, {'train_samples': 30}, 'wanted data.trainSamples = 30 and 2 to validate with .* only 17 images'),
    ('', 20, {'val_samples': 17}, 'wanted data.valSamples = 17, but there are only 17 images'),
])
def test_too_few_images_are_told_without_options_that_nobody_set(tmp_path: Path, part: str, images: int, changes: dict,
                                                                 words: str) -> None:
    """AIDeveloper#60, sibling: a handful of images, said to be too few for a trainSamples that the user had not given."""
    few(tmp_path, part, images)
    if part:
        few(tmp_path, 'test', 4)
    with pytest.raises(DataError, match=words) as error:
        load_data(config(tmp_path, **changes))
    assert str(tmp_path) in str(error.value)
    assert [name for name in ('trainSamples', 'valSamples') if name in str(error.value)] == [
        {'train_samples': 'trainSamples', 'val_samples': 'valSamples'}[key] for key in changes]


def test_the_fewest_images_that_can_be_divided(tmp_path: Path) -> None:
    splits = load_data(config(few(tmp_path, '', 7)))
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [5, 1, 1]


@pytest.mark.parametrize('parts', [('Training', 'Testing'), ('TRAIN', 'Val', 'test'), ('training', 'validation')])
def test_splits_by_other_names_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Sibling of mmpretrain#507: **silent**, a search that told training images from test images."""
    for part in parts:
        few(tmp_path, part, 12)
    with pytest.raises(DataError, match='look like splits; name them train, val and test'):
        load(tmp_path)


def test_files_that_are_meant_but_not_read_are_told(folder: Path) -> None:
    """Photographs of phones (.heic), and images that no class folder holds, were left out without a word."""
    (folder / 'train' / 'cat' / 'IMG_1.HEIC').write_bytes(b'a photograph')
    (folder / 'train' / 'cat' / 'notes.txt').write_text('no image')
    Image.fromarray(noise(8, 8, 3)).save(folder / 'train' / 'lost.png')
    heic, lost = load(folder)
    assert heic.startswith('1 files are not read') and 'IMG_1.HEIC' in heic
    assert lost.startswith('1 images lie beside') and 'lost.png' in lost
