"""What NNI itself says of a file for ``nnictl create``, before it starts anything."""
from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syno_nni.errors import ConfigError
from syno_nni.text import cell, did_you_mean


def check(data: Mapping[str, Any], source: str, folder: Path) -> None:
    """Whether NNI takes a file whose keys and types are right already.

    Args:
        data: as :func:`syno_nni.run.nnictl_file.resolved` returns it.
        source: opens every message.
        folder: that of the file, which relative paths in it start from.

    Raises:
        ConfigError: NNI refuses it, or knows no assessor of the name.
    """
    from nni.experiment.config import ExperimentConfig
    from nni.experiment.config.utils import set_base_path, unset_base_path
    # Without an address, NNI asks the network for that of this machine.
    given = {'nniManagerIp': '127.0.0.1', **copy.deepcopy(dict(data))}
    unset_base_path()
    set_base_path(folder.absolute())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            ExperimentConfig(**given).canonical_copy()
    except Exception as error:  # assertions among them
        raise ConfigError(f'{source}: NNI refuses it: {cell(error, 400) or type(error).__name__}') from None
    finally:
        unset_base_path()
    _check_assessor(data.get('assessor'), source)


def _check_assessor(assessor: Any, source: str) -> None:
    if assessor is None:
        return
    from nni.tools.package_utils.config_manager import get_all_algo_meta
    known = [name for meta in get_all_algo_meta() if meta.algo_type == 'assessor' for name in (meta.name, meta.alias) if name]
    if assessor['name'].lower() not in [name.lower() for name in known]:
        raise ConfigError(f'{source}: assessor.name: NNI has no assessor {cell(repr(assessor["name"]), 80)}; '
                          f'{did_you_mean(assessor["name"], known)}')
