"""What the operating system allows this process, checked before a load needs it."""

from __future__ import annotations

import resource

from loadgen.errors import LoadError


def check_descriptors(needed: int) -> None:
    """Make sure that `needed` files and sockets may be open at once, raising the soft limit as far as that takes.

    Raises:
        LoadError: the hard limit is lower, or the system refuses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise _too_few(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError, OverflowError) as error:  # the kernel's own ceiling, fs.nr_open
        raise _too_few(needed, soft) from error


def _too_few(needed: int, allowed: int) -> LoadError:
    return LoadError(
        f"the load needs {needed} open files and sockets; this process may have {allowed}",
        hint=f"raise the limit (ulimit -n {needed}) or ask for fewer requests at once",
    )
