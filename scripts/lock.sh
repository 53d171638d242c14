#!/bin/sh
# Resolves requirements.lock and requirements-dev.lock for every supported Python; no registry address enters them.
set -eu
resolve="uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml"
export PATH=".venv/bin:$PATH"
$resolve --extra build --output-file requirements.lock
$resolve --extra build --extra dev --constraint requirements.lock --output-file requirements-dev.lock
