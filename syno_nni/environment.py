"""Where a run takes place: machine and library versions, without importing the libraries."""
from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

_LIBRARIES = ('syno-nni', 'nni', 'torch', 'timm', 'pytorch-lightning', 'torchvision', 'numpy', 'onnxruntime',
              'openvino')


def environment() -> dict[str, Any]:
    """JSON-able facts that results depend on: ``cpu``, ``cores`` (usable by this process), ``memory_gb``, ``platform``,
    ``python``, and ``versions`` of the installed libraries."""
    return {'cpu': cpu_name(), 'cores': usable_cores(), 'memory_gb': _memory_gb(), 'platform': platform.platform(),
            'python': platform.python_version(), 'versions': _versions()}


def cpu_name() -> str:
    """The processor's model name."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as lines:
            for line in lines:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def usable_memory() -> int | None:
    """Bytes of memory that this process may use at most: the machine's, or what its control group or its limits leave."""
    limits = []
    if (left := _address_space_left()) is not None:
        limits.append(left)
    try:
        limits.append(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
    except (ValueError, OSError):
        pass
    for path in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
        try:
            with open(path, encoding='ascii') as file:
                limits.append(int(file.read(40)))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits, default=None)


def _address_space_left() -> int | None:
    """Bytes that ``ulimit -v`` leaves this process; None where there is no limit."""
    try:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        with open('/proc/self/statm', encoding='ascii') as file:
            return max(limit - int(file.read().split()[0]) * resource.getpagesize(), 0)
    except (ImportError, OSError, ValueError):
        return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1)
    except (ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
