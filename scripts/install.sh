#!/usr/bin/env bash
# Creates the virtual environment and installs the project with its development tools into it. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
accelerator=${ACCELERATOR:-cpu}

# An environment without pip is one whose making was cut short: where Debian's python3-venv is missing, for one.
whole() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

if ! whole; then
    for python in ${PYTHON:-python3.11 python3.12 python3}; do
        # A name on PATH is not yet an interpreter (version managers leave shims), and it may be out of our range.
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            "$python" -m venv "$venv"
            break
        fi
    done
    if ! whole; then
        echo "install: no Python 3.11 or 3.12 with venv and pip found (Debian's package is called python3-venv);" \
            "name one: make install PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --no-deps --require-hashes -r requirements-litellm.lock
"${pip[@]}" install --quiet -c requirements.lock -e ".[$accelerator,dev]"
"$venv/bin/python" scripts/check_extras.py
