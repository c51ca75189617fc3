#!/usr/bin/env bash
# Builds the workspace and prints the folder of the programs (log on standard error).
# Usage: build.sh [--release]
# Compiled artefacts go to CARGO_TARGET_DIR if it is set, else outside the clone to ${CHOM_CACHE_DIR:-/var/cache/chom}/target,
# so that a fresh clone builds quickly. It installs nothing.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

profile=debug options=()
case ${1:-} in
  --release) profile=release options=(--release) ;;
  "") ;;
  *) sed -n '3s/^# *//p' "$0" >&2; exit 2 ;;
esac

PATH=$PATH:${HOME:-/root}/.cargo/bin
if ! command -v cargo >/dev/null; then
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  echo "build.sh: cargo is missing; install Rust $wanted or newer: on Debian 13 with \`apt-get install rustup && rustup default stable\`, on Debian 12 with the installer from rustup.rs" >&2
  exit 1
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${CHOM_CACHE_DIR:-/var/cache/chom}/target}
cargo build --locked --workspace --bins "${options[@]}" >&2
echo "$(realpath "$CARGO_TARGET_DIR")/$profile"
