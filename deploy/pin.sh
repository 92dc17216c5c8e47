#!/usr/bin/env bash
# Pins the images that builds run in: asks each registry what the tag names now, and writes that digest behind the tag in
# cloudbuild.yaml and cloudbuild-test.yaml. Commit what it changes; run it again to take up newer images.
set -euo pipefail
cd "$(dirname "$0")/.."
files=(cloudbuild.yaml cloudbuild-test.yaml)
# One digest for all architectures, where the registry has one.
index='application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json'

images=$(sed -nE 's/^ +name: (&[a-z]+ )?([a-z0-9.-]+\/[^@ ]+:[^@ ]+).*/\2/p' "${files[@]}" | sort -u)
for image in $images; do
  path=${image#*/}
  head=$(curl -fsS --head -H "Accept: $index" "https://${image%%/*}/v2/${path%:*}/manifests/${path##*:}" | tr -d '\r')
  digest=$(sed -nE 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: *//p' <<<"$head")
  if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "The registry names no digest for $image." >&2
    exit 1
  fi
  echo "$image@$digest"
  sed -i.before -E "s|(name: (&[a-z]+ )?${image//./\\.})(@sha256:[0-9a-f]*)?$|\1@$digest|" "${files[@]}"
done
rm -f cloudbuild*.yaml.before
