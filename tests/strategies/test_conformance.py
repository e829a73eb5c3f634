"""Our strategies keep to what is asked of all."""
from __future__ import annotations

from functools import partial

import pytest

from syno_nni.strategies import make_strategy, strategy_names
from syno_nni.testing.strategies import STRATEGY_CHECKS


@pytest.mark.parametrize('check', STRATEGY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize('name', strategy_names())
def test_conformance(name: str, check: object) -> None:
    check(partial(make_strategy, name))
