"""What becomes of freed memory: the next array's, not the system's again; and how often Python looks for cycles.

XLA on a CPU takes its temporaries anew at every step. glibc gives large blocks back at once, and the system clears
every page that it hands out once more: a third of the time of a small model's update went into that.

Python looks through its youngest objects whenever 700 more were made than freed, and now and then through all of them:
a tenth of the time of the first search.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
LARGEST_BLOCK_BYTES = 2**30
KEPT_BYTES = 2**31 - 1
COLLECTED_AFTER = (50_000, 20, 50)
"""Objects, and collections of each generation, before Python's collector looks at the next one."""


def keep_freed_memory() -> bool:
    """Asks the allocator to keep what is freed, up to 2 GiB at its end; best before any thread has begun.

    The process holds its largest extent until it ends. Threads share one heap, since only the first one's can grow to
    hold large blocks.

    Returns:
      Whether this system's allocator has such settings and took them.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return False
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES), (_M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(set_option(option, value) == 1 for option, value in options)


def collect_seldom() -> None:
    """Lets Python's cycle collector run seldom. What it finds stays that much longer: at most 50,000 young objects."""
    gc.set_threshold(*COLLECTED_AFTER)
