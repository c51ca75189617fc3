#!/usr/bin/env bash
# Everything CI needs, from a fresh Debian machine: installs what is missing, checks form and rules, builds, runs every test.
# Usage: tests/run.sh [--long]
#   --long   whole campaigns (hundreds of kills, long outages) and the bench table; without it about one in ten, seeds printed
# Needs root (packages, namespaces, mounts). Caches lie outside the clone: ${CHOM_CACHE_DIR:-/var/cache/chom}, and
# CARGO_TARGET_DIR where it is set.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

long=no
case ${1:-} in
  --long) long=yes ;;
  "") ;;
  *) sed -n '3,4s/^# *//p' "$0" >&2; exit 2 ;;
esac
((EUID == 0)) || { echo "tests/run.sh: run it as root: it installs packages and makes namespaces and mounts" >&2; exit 1; }

cache=${CHOM_CACHE_DIR:-/var/cache/chom}
export CHOM_CACHE_DIR=$cache CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target} CARGO_TERM_COLOR=never
PATH=$PATH:${HOME:-/root}/.cargo/bin:$cache/tools/bin
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
started=$SECONDS

step() {
  local name=$1 from=$SECONDS
  shift
  echo "== $name"
  "$@" || { echo "== $name: FAILED after $((SECONDS - from)) s" >&2; exit 1; }
  echo "== $name: ok, $((SECONDS - from)) s"
}

scripts() {
  local files
  mapfile -t files < <(git ls-files '*.sh' .ci/run; git grep -lE '^#!.*(ba)?sh$' -- tests/fleet packaging | grep -vE '\.sh$' || true)
  shellcheck -x "${files[@]}"
}

# The licences, bans and sources always; the advisories where their database can be fetched.
deny() {
  command -v cargo-deny >/dev/null ||
    CARGO_TARGET_DIR=$cache/tools/target cargo install --quiet --locked --root "$cache/tools" cargo-deny@0.20.2 || return 1
  rm -rf "$cache/tools/target"
  cargo deny --locked check licenses bans sources || return 1
  if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
  else
    echo "the advisory database cannot be reached from here: advisories not checked"
  fi
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --workspace --no-deps; }

# Sums up cargo's own closing lines, so that one line says it all.
summary() {
  awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
       END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit failed > 0 || passed == 0 }' "$logs"/*.log
}

run_tests() {
  local log=$logs/$1.log status=0
  shift
  cargo test --locked "$@" 2>&1 | tee "$log" || status=$?
  return "$status"
}

step "packages" tests/fleet/setup.sh prometheus-node-exporter
# The file systems are built while the compiler works.
(tests/fleet/rootfs.sh && tests/fleet/image.sh && tests/fleet/debian.sh) >"$logs/caches.out" 2>&1 &
caches=$!
step "form" cargo fmt --check
step "scripts" scripts
step "lints" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
step "dependencies" deny
step "documentation" documentation
step "programs" packaging/build.sh
file_systems() { wait "$caches" || { cat "$logs/caches.out" >&2; return 1; }; }
step "file systems" file_systems
[[ $long == no ]] || export CHOM_TEST_LONG=1
step "tests" run_tests tests --workspace --no-fail-fast
if [[ $long == yes ]]; then
  step "release programs" packaging/build.sh --release
  step "benches" tests/bench/run.sh
fi
echo "tests/run.sh: all of it in $((SECONDS - started)) s"
summary
