#!/bin/sh
# Make .venv with everything in it; `make setup` calls this, and calling it again repairs what is missing.
#   PYTHON  the interpreter to use (default: the first of python3, 3.12, 3.11, 3.13, 3.10 that fits)
#   TORCH   what to install as torch and torchvision (default: "torch torchvision"; other pip flags may be added)
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON does not run or is not Python 3.10 to 3.13; name one: make setup PYTHON=/path/to/python3.12"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11 python3.13 python3.10; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 is on the path; install one, or name it: make setup PYTHON=/path/to/python3.12"
}

if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    fits .venv/bin/python || fail ".venv has $(.venv/bin/python --version), not 3.10 to 3.13; remove it: make clean"
else # none yet, or a broken one
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv or ensurepip; on Debian or Ubuntu: apt-get install python3-venv"
    echo "making .venv with $("$python" --version) ($python)"
    "$python" -m venv --clear .venv
fi

# torch and torchvision in one command, or their builds may not match. pip itself is left as it is.
# shellcheck disable=SC2086  # TORCH is a list
.venv/bin/python -m pip install --disable-pip-version-check ${TORCH:-torch torchvision}
echo "installing Detectron2 and what it needs"
.venv/bin/python tools/install_detectron2.py
echo "installing the project and what it needs"
.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[eval,crop,dev]'
