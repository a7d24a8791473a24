#!/bin/sh
# Pins every dependency with its hashes in requirements/, for all platforms and Python 3.11 and later, naming no
# package index. Pins already there are kept where pyproject.toml allows them; `make lock ARGS=--upgrade` renews them.
set -eu
cd "$(dirname "$0")/.."

# uv does not read pip's configuration: an index configured there holds for it too.
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(.venv/bin/pip config get global.index-url 2>/dev/null || true)}}
if [ -n "$index" ]; then
    export UV_DEFAULT_INDEX="$index"
fi

compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --no-emit-find-links "$@" >/dev/null
}

compile pyproject.toml --group build --output-file requirements/base.txt "$@"
compile pyproject.toml --group dev --constraints requirements/base.txt --output-file requirements/dev.txt "$@"
compile requirements/fakesnow.in --output-file requirements/fakesnow.txt "$@"
compile requirements/peers.in --output-file requirements/peers.txt "$@"
