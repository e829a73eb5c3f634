"""How threads wait for each other, decided before torch is imported.

OpenMP's threads spin while they wait. On a machine whose cores are all busy they spin away each other's time: training
with two threads on two busy cores took five times as long as with sleeping threads (measured). Waking a sleeping
thread costs microseconds, though, which a latency measured with several threads would include.
"""
from __future__ import annotations

import os


def wait_asleep(latency_threads: int) -> None:
    """Make the OpenMP threads of this process and of those it starts sleep while they wait, unless the user has chosen
    or latencies are measured with several threads. Without effect here once torch is imported."""
    if latency_threads == 1:
        os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
