"""`python -m profiler.cli`: the same as the `jouletrace` command."""

from __future__ import annotations

import sys

from profiler.cli import main

sys.exit(main())
