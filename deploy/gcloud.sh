# How bootstrap.sh calls gcloud: every command is printed before it runs, and those that change nothing are told from
# those that do, which --dry-run (`dry_run`) prints only. Sourced.
# shellcheck shell=bash

dry_run='' enabled=''
wait_seconds=${BOOTSTRAP_WAIT_SECONDS:-15}

say() { printf '%s\n' "$@" >&2; }

fail() {
  say '' "$@"
  exit 1
}

# A command as one could paste it.
quoted() {
  local word line=gcloud
  for word in "$@"; do line+=" $(printf '%q' "$word")"; done
  printf '%s' "$line"
}

# A command that only reads; its output is ours.
look() {
  say "\$ $(quoted "$@")"
  gcloud "$@" </dev/null || fail 'That command failed; Google says why above.' \
    'Fix it and run this again; completed steps stay completed.'
}

# Reads if the API is among the `enabled`, else nothing can be there: look_with API COMMAND…
look_with() {
  if has "$enabled" "$1"; then look "${@:2}"; fi
}

# A command that changes something.
run() {
  if [[ $dry_run ]]; then
    say "would run: $(quoted "$@")"
    return
  fi
  say "\$ $(quoted "$@")"
  gcloud "$@" </dev/null >/dev/null || fail 'That command failed; Google says why above.' \
    'Fix it and run this again; completed steps stay completed.'
}

# A right for an account that may have been made seconds ago: for about a minute Google may not know it everywhere.
grant() {
  local try
  if [[ ! $dry_run ]]; then
    for try in 1 2 3 4; do
      say "\$ $(quoted "$@")"
      if gcloud "$@" </dev/null >/dev/null; then return; fi
      say "Not accepted (try $try of 5); again in $wait_seconds s: a new account takes a while to be known."
      sleep "$wait_seconds"
    done
  fi
  run "$@"
}

has() { grep -qxF -- "$2" <<<"$1"; }
