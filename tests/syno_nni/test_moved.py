"""Names of modules in released files and documents."""
from __future__ import annotations

import importlib
import sys

import pytest

import syno_nni
from syno_nni._moved import MOVED


@pytest.mark.parametrize('old', MOVED)
@pytest.mark.filterwarnings('ignore:.* is now:DeprecationWarning')
def test_old_names_give_the_modules_of_today(old: str) -> None:
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])


def test_the_old_name_warns_once_and_leaves_the_module_as_it_was() -> None:
    from syno_nni.operator import size
    sys.modules.pop('syno_nni.size', None)
    with pytest.warns(DeprecationWarning, match='syno_nni.size is now syno_nni.operator.size'):
        importlib.import_module('syno_nni.size')
    assert size.__spec__.name == size.__name__ == 'syno_nni.operator.size'


def test_functions_are_not_shadowed_by_their_modules() -> None:
    from syno_nni.search_spaces import retrofit
    from syno_nni.search_spaces.retrofit import filled_slots  # noqa: F401
    from syno_nni.search_spaces.retrofit import retrofit as in_package
    assert retrofit is in_package is syno_nni.retrofit and callable(retrofit)
