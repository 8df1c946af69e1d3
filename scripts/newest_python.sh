#!/bin/sh
# Prints the path of the newest Python from 3.12 on that is installed: on the PATH, under pyenv, or beside python3.
beside=$(python3 -c 'import os, sys; print(os.path.dirname(sys.base_prefix))' 2>/dev/null)
for version in 3.15 3.14 3.13 3.12; do
    for python in "$(command -v "python$version" 2>/dev/null)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python "$beside/$version"*/bin/python; do
        if [ -n "$python" ] && "$python" -c 'import ensurepip, ssl, sys; sys.exit(sys.version_info < (3, 12) or sys.version_info.releaselevel != "final")' 2>/dev/null; then
            echo "$python"
            exit 0
        fi
    done
done
echo "test-latest needs Python 3.12 or newer, on the PATH, under pyenv or beside python3; none was found" >&2
exit 1
