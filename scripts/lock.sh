#!/usr/bin/env bash
# Resolves the dependencies of pyproject.toml again and writes both lock files. Needs uv; reads its usual settings for
# where packages come from, and writes none of that into the files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compile=(uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links)

# The comment at the head of each file is kept, the versions below it are replaced. torch's local version label
# (+cpu, +cu130) names one of several builds of the same release and would tie the lock to one of them.
rewrite() {
    local file=$1 resolved=$2
    { grep '^#' "$file"; sed -E 's/^(torch==[0-9.]+)\+[a-z0-9]+$/\1/' <<<"$resolved"; } >"$file.new"
    mv "$file.new" "$file"
}

# Both are resolved before either is written: a resolution that fails leaves both files as they are.
all=$("${compile[@]}" pyproject.toml --extra cpu --extra clients --extra dev)
litellm=$(grep '^litellm==' <<<"$all" | "${compile[@]}" --no-deps --generate-hashes -)
rewrite requirements.lock "$all"
rewrite requirements-litellm.lock "$litellm"
