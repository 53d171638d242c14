"""The system's limits on open connections, looked at before the load instead of met in the middle of it."""

from __future__ import annotations

import resource

from loadgen.errors import LoadError


def check_descriptors(needed: int) -> None:
    """Make room for `needed` open descriptors, raising the soft limit as far as the hard one allows.

    Raises:
        LoadError: the hard limit is below; says both numbers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LoadError(
            f"the load needs up to {needed} open connections, the system allows {hard}",
            hint=f"raise it with: ulimit -n {needed}; or lower --concurrency or --rate",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
