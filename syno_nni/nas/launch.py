"""What runs in a trial process: ``python -m syno_nni.nas.launch``.

NNI starts trials with ``<python> -m nni.nas.execution.training_service trial``; an experiment of ours puts this module
in the place of the Python interpreter, so the rest of that command arrives as arguments and is ignored.
"""
from __future__ import annotations

import argparse
import os
import signal
import threading
import time


def main() -> None:
    """Run the trial that NNI's manager has started this process for."""
    end_with(os.getppid())
    own_parameters()
    from nni.nas.execution.training_service import trial_entry
    trial_entry()


def own_parameters() -> None:
    """From now on NNI gives this process the parameters that are on record for its trial.

    The record is the manager's. On another machine ``NNI_TRIAL_COMMAND_CHANNEL`` leads to a helper of NNI's there, and
    the command line names the manager: ``--manager http://address:port``.
    """
    from nni.runtime.trial_command_channel import set_default_trial_command_channel

    from .channel import ExactParameterChannel
    parser = argparse.ArgumentParser()
    parser.add_argument('--manager', default=None)
    manager = parser.parse_known_args()[0].manager
    channel = ExactParameterChannel(os.environ['NNI_TRIAL_COMMAND_CHANNEL'], os.environ['NNI_TRIAL_JOB_ID'], manager=manager)
    set_default_trial_command_channel(channel)


def end_with(parent: int) -> None:
    """End this process soon after its parent, NNI's manager: nobody would receive its result."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name='parent-watch', daemon=True).start()


if __name__ == '__main__':
    main()
