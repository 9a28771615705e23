#!/bin/sh
# Makes $VENV with the package (editable) and everything that its demo, checks and tests need.
# Called by the Makefile; needs python3 and a network, and apt-get only where Debian's python3 comes without venv.
set -eu

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
EXTRAS='.[all,dev]'

fail() {
    echo "set-up: $1" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null 2>&1 || fail "$PYTHON was not found: install Python 3.11, 3.12 or 3.13, or say where it is: make PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$("$PYTHON" --version) is not supported: use Python 3.11, 3.12 or 3.13, like make PYTHON=python3.13"

# Debian splits venv and ensurepip off python3.
if ! "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    missing="python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "$PYTHON has no venv module: install it with your system's package manager"
    elif [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true >/dev/null 2>&1; then
        as_root='sudo -n'
    else
        fail "$PYTHON has no venv module: run 'sudo apt-get install $missing', then make again"
    fi
    echo "set-up: installing $missing with apt-get"
    ($as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$missing") </dev/null ||
        fail "apt-get could not install $missing: install it, then run make again"
fi

if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "set-up: making $VENV"
    "$PYTHON" -m venv --clear "$VENV"
fi

# uv installs in under a minute what takes pip many; it reads no pip configuration, so pip stays as the second way.
echo "set-up: installing the package and its dependencies"
if "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
    if "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" -e "$EXTRAS"; then
        exit 0
    fi
    echo "set-up: uv could not install it; trying pip, which takes longer" >&2
else
    echo "set-up: uv cannot be installed here; using pip, which takes longer" >&2
fi
"$VENV/bin/python" -m pip install --disable-pip-version-check -e "$EXTRAS" ||
    fail "the dependencies could not be installed; pip's message above says why"
