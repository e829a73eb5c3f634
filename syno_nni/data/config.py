"""The part of an experiment file that names the data."""
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from syno_nni.schema import Count, FunctionName, PathText, Section, Whole


class DataConfig(Section):
    """The dataset; see :mod:`syno_nni.data.datasets`. ``imageSize`` is in pixels (square), ``path`` a folder.

    ``factory: 'module:function'`` names a function of the user's instead, which returns the datasets (see
    :mod:`syno_nni.data.own`); image size and channels are then those of its images. ``validation: test`` takes half of the
    test images for validation, which a search by retrofit does by itself where the model was trained on the validation images.
    """
    name: Literal['digits', 'fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'] = 'digits'
    factory: FunctionName | None = None
    path: PathText | None = None
    image_size: Annotated[Count, Field(le=4096)] = 32
    channels: Annotated[Count, Field(le=1024)] = 3
    batch_size: Annotated[Count, Field(le=2 ** 20)] = 64
    train_samples: Count | None = None
    val_samples: Count | None = None
    validation: Literal['own', 'test'] = 'own'
    seed: Whole = 0

    @property
    def title(self) -> str:
        """What people call it: the name, or the function's."""
        return self.name if self.factory is None else self.factory

    @model_validator(mode='after')
    def _one_source(self) -> DataConfig:
        if self.factory is None and self.channels not in (1, 3):
            raise ValueError(f'{self.name} has images of 1 or 3 channels, got channels {self.channels}')
        if self.factory is not None and self.path is not None:
            raise ValueError('path and factory say two things; leave one of them out')
        return self

    @model_validator(mode='after')
    def _needs_path(self) -> DataConfig:
        if self.factory is None and self.path is None and self.name in ('imagefolder', 'cifar10', 'cifar100'):
            raise ValueError(f'{self.name} needs data.path, the folder that holds it')
        return self
