"""Forks of a test process, which has gigabytes of objects by the end of a suite."""

import gc
import os


def fork():
    """Fork as `os.fork` does; the child's garbage collector leaves the objects of the parent alone.

    A collection writes to every object that it visits, so the child would copy the memory of the whole suite.
    """
    gc.freeze()
    child = os.fork()
    if child:
        gc.unfreeze()
    return child
