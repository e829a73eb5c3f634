"""What every trial process needs before it can work: its own parameters, and an end together with its manager."""
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import threading
import time
from pathlib import Path


def own_parameters() -> None:
    """From now on NNI gives this process the parameters that are on record for its trial, as plain data.

    The record is the manager's. On another machine ``NNI_TRIAL_COMMAND_CHANNEL`` leads to a helper of NNI's there, which
    knows the manager (:func:`remote_manager`); the command line can name another one: ``--manager http://address:port``.
    """
    from nni.runtime.trial_command_channel import set_default_trial_command_channel

    from .channel import ExactParameterChannel
    parser = argparse.ArgumentParser()
    parser.add_argument('--manager', default=None)
    manager = parser.parse_known_args()[0].manager
    if manager is None and os.environ.get('NNI_PLATFORM') == 'remote':
        manager = remote_manager(Path(os.environ['NNI_OUTPUT_DIR']))
    channel = ExactParameterChannel(os.environ['NNI_TRIAL_COMMAND_CHANNEL'], os.environ['NNI_TRIAL_JOB_ID'], manager=manager)
    set_default_trial_command_channel(channel)


def remote_manager(output: Path) -> str | None:
    """The address of NNI's manager, token included, as NNI's helper on another machine has it in a file; None without one.

    Args:
        output: directory of the trial there, ``.../environments/<environment>/trials/<trial>``.
    """
    files = output.parents[1].glob('trial_keeper*/launcher_config.json')
    for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True):
        try:
            url = json.loads(file.read_text(encoding='utf-8'))['managerCommandChannel']
        except (OSError, ValueError, KeyError, TypeError):
            continue
        match = re.match(r'ws(://[^/]+(?:/[^/]+)*?)/platform/', str(url))
        if match:
            return f'http{match[1]}'
    return None


def end_with(parent: int) -> None:
    """End this process soon after its parent, NNI's manager: nobody would receive its result."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name='parent-watch', daemon=True).start()
