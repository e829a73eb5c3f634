"""The part of an experiment file that names the data."""
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from syno_nni.schema import Count, PathText, Section, Whole


class DataConfig(Section):
    """The dataset; see :mod:`syno_nni.data.datasets`. ``imageSize`` is in pixels (square), ``path`` a folder."""
    name: Literal['digits', 'fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'] = 'digits'
    path: PathText | None = None
    image_size: Annotated[Count, Field(le=4096)] = 32
    channels: Literal[1, 3] = 3
    batch_size: Annotated[Count, Field(le=2 ** 20)] = 64
    train_samples: Count | None = None
    val_samples: Count | None = None
    seed: Whole = 0

    @model_validator(mode='after')
    def _needs_path(self) -> DataConfig:
        if self.path is None and self.name in ('imagefolder', 'cifar10', 'cifar100'):
            raise ValueError(f'{self.name} needs data.path, the folder that holds it')
        return self
