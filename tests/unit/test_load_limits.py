"""Descriptor limits are raised where allowed and reported with numbers where not."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import LoadError
from loadgen.limits import check_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

SOFT = 200


@pytest.fixture
def low_soft_limit() -> Iterator[int]:
    """Lower the soft limit for one test and return the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_as_far_as_needed(low_soft_limit: int) -> None:
    """A need between soft and hard limit raises the soft one and leaves the hard one."""
    check_descriptors(SOFT + 50)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (SOFT + 50, low_soft_limit)


def test_a_limit_that_suffices_is_left_alone(low_soft_limit: int) -> None:
    """A need below the soft limit changes nothing."""
    check_descriptors(SOFT)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (SOFT, low_soft_limit)


@pytest.mark.usefixtures("low_soft_limit")
def test_more_than_the_system_allows_is_refused_with_both_numbers() -> None:
    """The error says what is needed and what there is, and the hint how to raise it."""
    with pytest.raises(LoadError, match=str(2**40)) as refused:
        check_descriptors(2**40)
    assert f"ulimit -n {2**40}" in refused.value.hint
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == SOFT
