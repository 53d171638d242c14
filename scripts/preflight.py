"""Says in one line what a machine lacks before an environment is made, and the command that installs it."""

import importlib.util
import sys


def main() -> int:
    """Return 0 when a virtual environment can be made."""
    version = "{}.{}".format(*sys.version_info[:2])
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs under whatever python3 the machine has
        need = "error: Python 3.11 or newer is needed, this is"
        sys.stderr.write(f"{need} {version}; name one with PYTHON=python3.11\n")
        return 2
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        sys.stderr.write(f"error: this Python lacks venv; install it with: apt-get install python{version}-venv\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
