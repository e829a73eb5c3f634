"""A deployable folder: timm's layout (``config.json``, ``model.safetensors``), with the operators in the configuration.

>>> save_folder(model, 'resnet18-fast')
>>> import timm, syno_nni.model_zoo
>>> timm.create_model('local-dir:resnet18-fast', pretrained=True)

Nothing in it is executed: formulas are parsed, weights are safetensors. timm makes the model of a folder from the name of
its architecture and plain arguments; what these cannot say, a saved model cannot have. A folder is therefore loaded and
compared with the model before it is written.
"""
from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from torch import nn

from syno_nni.errors import SynoError, ZooError
from syno_nni.files import WEIGHTS_BYTES, check_file, check_path, exists, read_json, show_path
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.search_spaces.retrofit.retrofit import filled_slots, slot_config

from .same_model import check_plain, check_same, float_copy, run_on, unwrapped
from .timm_args import channels_of, variants

CONFIG, WEIGHTS, CARD, ONNX = 'config.json', 'model.safetensors', 'README.md', 'model.onnx'


def save_folder(model: nn.Module, path: str | Path, *, base: str | None = None, input_size: Sequence[int] | None = None,
                evidence: Mapping[str, Any] | None = None, card: str = '') -> Path:
    """Write a retrofitted timm model as a folder that ``timm.create_model('local-dir:...')`` loads.

    The folder is written beside its place, loaded there, and compared with the model: names, shapes and values of the
    weights, and outputs. Then it is moved to its place; when anything fails, nothing is left and an earlier save stays.
    timm loads all weights as float32, so a model of half precision comes back in single.

    Args:
        model: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of a timm model. It is not changed. A
            wrapper (``torch.compile``, data parallel, timm's EMA) is looked into.
        path: the folder; made if needed. Files of an earlier save are replaced, and its ``model.onnx`` is removed;
            a folder with such files that are no save's is refused.
        base: the timm architecture that was retrofitted; by default the model says so itself.
        input_size: (channels, height, width) that the operators are built for, which timm's data pipeline then uses; by
            default what the model declares, or else the size at which its operators run.
        evidence: JSON-able facts that are kept in the configuration under ``syno_nni``.
        card: text of the model card.

    Raises:
        ZooError: the model has no filled slot or no timm configuration, was changed in a way that name and arguments of
            its architecture cannot say, or the folder cannot be written.
    """
    model = unwrapped(model)
    base = _base_of(model, base)
    folder = check_path(path, error=ZooError, what='the folder')
    if folder.exists() and not folder.is_dir():
        raise ZooError(f'{folder}: cannot write a folder: there is a file of this name')
    _check_ours(folder)
    check_plain(model)
    twin = float_copy(model)
    size = _built_for(model, twin, input_size)
    try:
        with draft_of(folder) as draft:
            _write_loadable(model, twin, draft, base, size, evidence or {})
            if card:
                (draft / CARD).write_text(card, encoding='utf-8')
    except OSError as error:
        raise ZooError(f'{folder}: cannot write: {error.strerror or error}') from None
    return folder


def load_folder(path: str | Path, **kwargs: Any) -> nn.Module:
    """The model of a folder with its weights, by ``timm.create_model('local-dir:...')``; ``kwargs`` as there.

    Raises:
        ZooError: the folder is missing, incomplete or malformed.
    """
    folder = Path(path)
    read_config(folder)
    if not exists(folder / WEIGHTS):
        raise ZooError(f'{show_path(folder)} has no {WEIGHTS}')
    check_file(folder / WEIGHTS, limit=WEIGHTS_BYTES, error=ZooError, what='the weights')
    try:
        return timm.create_model(f'local-dir:{folder}', pretrained=True, **kwargs)
    except SynoError as error:
        raise ZooError(f'{folder}: {error}') from error
    except Exception as error:  # whatever a damaged file makes safetensors or timm raise
        raise ZooError(f'{folder}: cannot load: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved folder.

    Raises:
        ZooError: it is missing, no JSON object, or not of a retrofitted model.
    """
    config = read_json(folder / CONFIG, error=ZooError, what='the configuration of the folder')
    if not isinstance(config, dict) or not isinstance(config.get('model_args'), dict) or 'slots' not in config['model_args']:
        raise ZooError(f'{folder / CONFIG} is not of a retrofitted model: it has no model_args.slots')
    return config


def _check_ours(folder: Path) -> None:
    """What a save would replace must be of an earlier save: not the original's folder, nor a project's README.

    Raises:
        ZooError: it is not, or cannot be told to be.
    """
    there = [name for name in (CONFIG, WEIGHTS, CARD, ONNX) if (folder / name).exists()]
    if CONFIG in there:
        try:
            read_config(folder)
        except ZooError:
            raise ZooError(f'{folder}: cannot write here: its {CONFIG} is not of a retrofitted model, and would be replaced; '
                           'choose another folder') from None
    elif there and WEIGHTS not in there:  # a save that was cut off in the middle leaves weights
        raise ZooError(f'{folder}: cannot write here: its {there[0]} is not of a retrofitted model, and would be replaced; '
                       'choose another folder')


# --- writing ---------------------------------------------------------------------------------------------------------

def _base_of(model: nn.Module, base: str | None) -> str:
    """The architecture to name in the folder.

    Raises:
        ZooError: the model is none that timm can make again.
    """
    cfg = getattr(model, 'pretrained_cfg', None)
    known = base or getattr(model, 'syno_base', None) or (cfg or {}).get('architecture')
    filled = filled_slots(model)
    if not filled:
        raise ZooError(f'{type(model).__name__} has no filled slot: retrofit it before saving')
    if any(not isinstance(slot.layer, SynthesizedLayer) for slot in filled.values()):
        raise ZooError('the model is in its deploy form, which has no weights to save: save before reparameterize_model')
    if type(model).__module__.startswith('timm.models._features'):
        raise ZooError(f'{type(model).__name__} is a feature extractor, which lacks parts of its architecture: retrofit and '
                       'save the whole model, and load the folder with features_only=True')
    if not isinstance(cfg, Mapping) or not isinstance(known, str) or not timm.is_model(known):
        inner = next((name for name, m in model.named_modules() if name and hasattr(m, 'pretrained_cfg')), None)
        hint = f'save its part {inner!r}, which is one, or ' if inner else ''
        raise ZooError(f'{type(model).__name__} is no timm model: {hint}save slot_config(model) and its state_dict instead')
    return known


def _write_loadable(model: nn.Module, twin: nn.Module, draft: Path, base: str, size: tuple[int, ...],
                    evidence: Mapping[str, Any]) -> None:
    """Write configuration and weights with arguments of which timm makes this very model.

    Raises:
        ZooError: there are none; says why for the first that were tried.
    """
    refused: ZooError | None = None
    for args in variants(model):
        try:
            _write(model, draft, args, base, size, evidence)
            check_same(model, twin, lambda: load_folder(draft), lambda: _architecture(draft), size, base)
        except ZooError as error:
            refused = refused or error
        else:
            return
    assert refused is not None
    # Say nothing of the draft, which is gone when this is read.
    raise ZooError(f'cannot save {base}: {str(refused).replace(f"{draft}: ", "")}')


def _write(model: nn.Module, draft: Path, args: Mapping[str, Any], base: str, size: tuple[int, ...],
           evidence: Mapping[str, Any]) -> None:
    from .timm_models import GENERIC
    # A shallow copy: timm reads arguments off the model, and these are the ones to write.
    shell = copy.copy(model)
    shell._model_args = dict(args)  # type: ignore[assignment]
    if 'in_chans' in args:
        shell.in_chans = args['in_chans']
    # Weights that share memory are stored once for each name.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    shell.state_dict = lambda: tensors  # type: ignore[method-assign, assignment]
    own = {'base': base, 'slots': slot_config(model)}
    # In the model's own declaration, which every timm reads: 1.0.22 would take a part that is given beside it for the whole.
    shell.pretrained_cfg = {**model.pretrained_cfg, 'architecture': GENERIC, 'tag': None}  # type: ignore[dict-item, assignment]
    try:
        timm.models.save_for_hf(shell, str(draft), model_config={'syno_nni': dict(evidence)}, model_args={**args, **own},
                                safe_serialization=True)
        saved = json.loads((draft / CONFIG).read_text(encoding='utf-8'))
        # timm adds what it reads off the model, also where the architecture has no such argument.
        saved['model_args'] = {k: v for k, v in saved.get('model_args', {}).items()
                               if k in args or k in own or k in ('in_chans', 'num_classes')}
        declared = saved['pretrained_cfg']
        if list(size) != list(declared.get('input_size', ())):
            declared['pool_size'] = None
        for key in ('test_input_size', 'min_input_size', 'test_crop_pct'):
            declared.pop(key, None)
        declared['input_size'] = list(size)
        (draft / CONFIG).write_text(json.dumps(saved, indent=2), encoding='utf-8')
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ZooError(' '.join(str(error).split())[:300]) from error


def _architecture(folder: Path) -> nn.Module:
    """The model of a folder without its weights."""
    try:
        return timm.create_model(f'local-dir:{folder}', pretrained=False)
    except Exception as error:  # whatever an architecture raises for arguments that it does not take
        raise ZooError(f'timm cannot make it again: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error


def _built_for(model: nn.Module, twin: nn.Module, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """(channels, height, width) at which the model runs: what is wanted, or declared, or else found out.

    Raises:
        ZooError: it runs at none.
    """
    channels = channels_of(model)
    declared = tuple(model.pretrained_cfg.get('input_size', (3, 224, 224)))  # type: ignore[operator, union-attr]
    first = tuple(int(n) for n in wanted) if wanted is not None else (channels or declared[0], *declared[1:])
    failed = run_on(twin, first)
    if failed is None:
        return first
    if wanted is not None:
        raise ZooError(f'the model does not run on the input size {first}: {failed}; input_size is (channels, height, width) '
                       'that the operators are built for')
    for map_size in dict.fromkeys(_map_of(slot) for slot in filled_slots(model).values()):
        for factor in (1, 2, 4, 8, 16, 32) if map_size else ():
            size = (first[0], *(n * factor for n in map_size))
            if run_on(twin, size) is None:
                return size
    raise ZooError(f'the model does not run on the input size {first} that it declares: {failed}; say what its operators are '
                   'built for with input_size=(channels, height, width)')


def _map_of(slot: Any) -> tuple[int, ...]:
    """Height and width of a slot's input, () where it has none."""
    if slot.input_size:
        return tuple(slot.input_size) if len(slot.input_size) == 2 else ()
    sizes = slot.sizes
    return (sizes['H'], sizes.get('W', sizes['H'])) if 'H' in sizes else ()


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A new folder on the same disk, whose files become those of ``folder`` when the block ends without an error."""
    place = folder.absolute()
    made = [p for p in (place.parent, *place.parent.parents) if not p.exists()]
    name = f'.syno-{uuid.uuid4().hex[:8]}.part'
    draft = place / name if place.exists() else place.parent / name
    try:
        draft.mkdir(parents=True)
        yield draft
        if not place.exists():
            draft.rename(place)
            return
        # Unloadable while its parts are of two models.
        for old in (CONFIG, ONNX):
            (place / old).unlink(missing_ok=True)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == CONFIG):
            file.replace(place / file.name)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
