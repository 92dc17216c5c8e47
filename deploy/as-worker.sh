#!/bin/sh
# Runs one command of the worker, as in `as-worker.sh check`, the way its services run: as a user of its own that owns
# nothing. Root starts it, since systemd reads the settings, which root alone may read; no code of the worker is root.
set -eu
exec systemd-run --quiet --pipe --wait --collect \
  --property=DynamicUser=yes --property=ProtectHome=yes --property=CapabilityBoundingSet= \
  --property=EnvironmentFile=/etc/generation-worker.env --property=WorkingDirectory=/opt/generation-worker \
  /opt/generation-worker/.venv/bin/python -m worker --no-env-file "$@"
