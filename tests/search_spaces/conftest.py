from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope='session')
def one_thread():
    """Workers share the cores: more threads than cores spin, and take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
