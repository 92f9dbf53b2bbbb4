"""Run a command of nnU-Net with one thread: ``python one_thread.py nnUNetv2_train ...``.

nnU-Net takes as many threads as there are cores, which on few cores beside other work is much
slower than one.
"""

import multiprocessing
import runpy
import shutil
import sys


def one() -> int:
    """Say that there is one core."""
    return 1


if __name__ == "__main__":
    multiprocessing.cpu_count = one
    sys.argv = sys.argv[1:]
    found = shutil.which(sys.argv[0])
    if found is None:
        sys.exit(f"{sys.argv[0]}: not found; pip install 'crossd[nnunet]'")
    runpy.run_path(found, run_name="__main__")
