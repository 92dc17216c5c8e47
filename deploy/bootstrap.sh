#!/usr/bin/env bash
# Prepares a Google Cloud project for the generation worker: APIs, accounts, rights, secrets, a place for images.
# Looks first and does only what is missing, so it is safe to run again, also with another clock or region.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR
. "$here/gcloud.sh"

usage() {
  cat <<'END'
deploy/bootstrap.sh --project PROJECT [--region REGION] [--clock scheduler|pg_cron] [--dry-run]

  --project  the Google Cloud project's id; billing must be on
  --region   where everything runs, as _REGION of cloudbuild.yaml (us-central1)
  --clock    who will call the worker, as _CLOCK of cloudbuild.yaml (scheduler)
  --dry-run  only look, and print what would be run

Values of secrets are asked for, or read from standard input as lines NAME=value:
  deploy/bootstrap.sh --project PROJECT <.env
Every command is printed before it runs; values of secrets are never part of one.
END
}

email() { printf '%s' "$1@$project.iam.gserviceaccount.com"; }

check_project() {
  local billing
  command -v gcloud >/dev/null || fail 'gcloud is not installed.' \
    'Use Cloud Shell (https://shell.cloud.google.com), which has it, or see https://cloud.google.com/sdk/docs/install'
  [[ $(look auth list --filter=status:ACTIVE --format='value(account)') ]] || fail 'Nobody is signed in.' \
    'Run: gcloud auth login'
  billing=$(look billing projects describe "$project" --format='value(billingEnabled)')
  [[ $billing == True ]] || fail "Billing is off for the project $project." \
    "Turn it on: https://console.cloud.google.com/billing/linkedaccount?project=$project"
}

enable_apis() {
  local api missing=()
  enabled=$(look services list --enabled --project="$project" --format='value(config.name)')
  for api in "${apis[@]}"; do
    has "$enabled" "$api" || missing+=("$api")
  done
  if ((${#missing[@]})); then
    run services enable "${missing[@]}" --project="$project"
    [[ $dry_run ]] || enabled+=$'\n'$(printf '%s\n' "${missing[@]}")
  fi
}

create_account() { # name, what for
  has "$accounts" "$(email "$1")" || run iam service-accounts create "$1" --display-name="$2" --project="$project"
}

create_accounts() {
  accounts=$(look_with iam.googleapis.com iam service-accounts list --project="$project" --format='value(email)')
  create_account generation-worker 'Generation worker: processes the queue'
  create_account generate-images 'Generation worker: takes orders'
  create_account generation-clock 'Generation worker: Cloud Scheduler calls as this one'
  create_account generation-build 'Generation worker: deploys'
  create_account generation-pack 'Generation worker: makes images of the functions'
  create_account generation-test 'Generation worker: tests'
}

# The rights on something, as lines "role<tab>member": rights_on COMMAND…
rights_on() { look "$@" --flatten='bindings[].members' --format='value(bindings.role,bindings.members)'; }

grant_on_project() {
  local rights
  rights=$(rights_on projects get-iam-policy "$project")
  grant_roles generation-build "${build_roles[@]}"
  grant_roles generation-pack "${pack_roles[@]}"
  grant_roles generation-test "${test_roles[@]}"
}

grant_roles() { # account, role…; of the project, whose `rights` have been read
  local role member
  member=serviceAccount:$(email "$1")
  for role in "${@:2}"; do
    has "$rights" "$role"$'\t'"$member" ||
      grant projects add-iam-policy-binding "$project" --member="$member" --role="$role" --condition=None
  done
}

# Whose programs the deployment starts: services that run as the first two, Cloud Scheduler's calls as the clock, and
# Cloud Run's builds as the last.
grant_on_accounts() {
  local name account rights member role=roles/iam.serviceAccountUser
  member=serviceAccount:$(email generation-build)
  for name in generation-worker generate-images generation-clock generation-pack; do
    account=$(email "$name")
    rights=
    if has "$accounts" "$account"; then
      rights=$(rights_on iam service-accounts get-iam-policy "$account" --project="$project")
    fi
    has "$rights" "$role"$'\t'"$member" ||
      grant iam service-accounts add-iam-policy-binding "$account" --member="$member" --role="$role" \
        --project="$project"
  done
}

# Where `gcloud builds submit` puts the source. The two accounts that it is submitted to read this bucket and no other.
create_source_bucket() {
  local name=${project}_cloudbuild found rights='' account member role=roles/storage.objectViewer
  found=$(look storage buckets list --project="$project" --format='value(name)')
  if has "$found" "$name"; then
    rights=$(rights_on storage buckets get-iam-policy "gs://$name")
  else
    run storage buckets create "gs://$name" --location="$region" --uniform-bucket-level-access \
      --public-access-prevention --project="$project"
  fi
  for account in generation-build generation-test; do
    member=serviceAccount:$(email "$account")
    has "$rights" "$role"$'\t'"$member" ||
      grant storage buckets add-iam-policy-binding "gs://$name" --member="$member" --role="$role"
  done
}

create_images_repository() {
  local found
  found=$(look_with artifactregistry.googleapis.com artifacts repositories list --location="$region" \
    --project="$project" --format='value(name.basename())')
  if has "$found" cloud-run-source-deploy; then return; fi
  # The name that `gcloud run deploy --source` looks for. Without a policy every deployment's images stay for good.
  run artifacts repositories create cloud-run-source-deploy --repository-format=docker --location="$region" \
    --project="$project"
  run artifacts repositories set-cleanup-policies cloud-run-source-deploy --policy="$here/image-cleanup.json" \
    --location="$region" --project="$project"
}

# NAME=value lines, as of a .env file, into variables given_NAME; nothing is printed, nobody's command line sees them.
read_given() {
  local line name value
  while IFS= read -r line || [[ $line ]]; do
    line=${line%$'\r'}
    line=${line#export }
    name=${line%%=*}
    value=${line#*=}
    [[ $line == *=* && $name =~ ^[A-Z][A-Z0-9_]*$ ]] || continue
    if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
    printf -v "given_$name" '%s' "$value"
  done
}

# The value of a variable, asked for at a terminal; empty if there is none to be had.
value_of() {
  local name=$1 given=given_$1 value
  value=${!given-}
  if [[ ! $value && -t 0 ]]; then
    [[ $name != @(WORKER|OPERATOR)_SECRET ]] || say 'Nothing (just Enter) makes a random one.'
    read -rsp "$name: " value || true
    say ''
  fi
  if [[ ! $value && $name == @(WORKER|OPERATOR)_SECRET ]]; then
    value=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  fi
  printf '%s' "$value"
}

add_value() { # secret, variable
  local value command=(secrets versions add "$1" --data-file=- --project="$project")
  if [[ $dry_run ]]; then
    say "would run: $(quoted "${command[@]}")  # the value of $2 on its standard input"
    return
  fi
  value=$(value_of "$2")
  if [[ ! $value || $value == *[[:space:]]* ]]; then
    say "No value for $2, or one with white space in it."
    unfilled+=" $2"
    return
  fi
  say "\$ $(quoted "${command[@]}")  # the value of $2 on its standard input"
  printf '%s' "$value" | gcloud "${command[@]}" >/dev/null || fail 'That command failed; Google says why above.'
}

# A secret, its value, and who may read it: create_secret SECRET VARIABLE ACCOUNT…
create_secret() {
  local secret=$1 account member rights='' versions='' role=roles/secretmanager.secretAccessor
  if has "$secrets" "$secret"; then
    versions=$(look secrets versions list "$secret" --filter=state=ENABLED --limit=1 --project="$project" \
      --format='value(name.basename())')
    rights=$(rights_on secrets get-iam-policy "$secret" --project="$project")
  else
    run secrets create "$secret" --replication-policy=automatic --project="$project"
  fi
  [[ $versions ]] || add_value "$secret" "$2"
  for account in "${@:3}"; do
    member=serviceAccount:$(email "$account")
    has "$rights" "$role"$'\t'"$member" ||
      grant secrets add-iam-policy-binding "$secret" --member="$member" --role="$role" --project="$project"
  done
}

create_secrets() {
  [[ $dry_run || -t 0 ]] || read_given
  secrets=$(look_with secretmanager.googleapis.com secrets list --project="$project" --format='value(name.basename())')
  create_secret generation-supabase-url SUPABASE_URL generation-worker generate-images
  create_secret generation-supabase-anon-key SUPABASE_ANON_KEY generate-images
  create_secret generation-supabase-service-role-key SUPABASE_SERVICE_ROLE_KEY generation-worker
  create_secret generation-gemini-api-key GEMINI_API_KEY generation-worker
  create_secret generation-operator-secret OPERATOR_SECRET generation-worker
  if [[ $clock == pg_cron ]]; then create_secret generation-worker-secret WORKER_SECRET generation-worker; fi
  [[ ! $unfilled ]] || fail "Still without a value:$unfilled." \
    'Run this again at a terminal, or with those lines on standard input. All else is done.'
}

project='' region=us-central1 clock=scheduler unfilled='' accounts='' secrets=''
apis=(
  run.googleapis.com cloudbuild.googleapis.com artifactregistry.googleapis.com secretmanager.googleapis.com
  cloudscheduler.googleapis.com iam.googleapis.com logging.googleapis.com
)
# Rights on the whole project, each for what it is needed for.
build_roles=(
  roles/run.sourceDeveloper               # upload the functions' source, have Cloud Run build it, deploy a revision
  roles/run.admin                         # open or close a service, and say who may call it
  roles/cloudscheduler.admin              # create, change and delete the clock's two jobs
  roles/serviceusage.serviceUsageConsumer # call APIs in the project's name, as `run deploy --source` does
  roles/logging.logWriter                 # write its build's log
)
pack_roles=(
  roles/run.builder # read that source, push the images made of it, write their build's log
)
test_roles=(
  roles/logging.logWriter # write its build's log
)

while (($#)); do
  case $1 in
    --project | --region | --clock)
      (($# > 1)) || fail "$1 needs a value." '' "$(usage)"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --dry-run) dry_run=yes && shift ;;
    -h | --help) usage && exit ;;
    *) fail "Unknown argument: $1" '' "$(usage)" ;;
  esac
done
[[ $project =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] || fail '--project must be the id of a Google Cloud project.' '' "$(usage)"
[[ $region =~ ^[a-z]+-[a-z]+[0-9]+$ ]] || fail '--region must be a region, like us-central1.'
[[ $clock == scheduler || $clock == pg_cron ]] || fail '--clock must be scheduler or pg_cron.'

check_project
enable_apis
create_accounts
grant_on_project
grant_on_accounts
create_source_bucket
create_images_repository
create_secrets
say '' "${dry_run:+Nothing was changed. }Next:" \
  "  deploy/pin.sh" \
  "  gcloud builds submit --config=cloudbuild-test.yaml --project=$project" \
  "  gcloud builds submit --config=cloudbuild.yaml --project=$project --substitutions=_CLOCK=$clock,_REGION=$region"
