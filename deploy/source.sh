#!/usr/bin/env bash
# Copies what Cloud Run builds from into a new folder: deploy/source.sh FOLDER. This is the only list of those files:
# cloudbuild.yaml and docs/deploy.md both call it. The package is copied whole, with its folders and data files.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir "${1:?the folder to create}"
cp -RL "$root/main.py" "$root/requirements.txt" "$root/worker" "$1"
find "$1" -name __pycache__ -prune -exec rm -r {} +
