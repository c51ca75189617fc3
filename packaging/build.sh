#!/usr/bin/env bash
# Builds the workspace and prints the folder of the programs (log on standard error).
# Usage: build.sh [--release]
# Compiled artefacts go to CARGO_TARGET_DIR if it is set, else outside the clone to ${CHOM_CACHE_DIR:-/var/cache/chom}/target,
# so that a fresh clone builds quickly. It installs nothing.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

profile=debug
case ${1:-} in
  --release) profile=release ;;
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
target=$(realpath -m "$CARGO_TARGET_DIR")
if [[ $profile == debug ]]; then
  cargo build --locked --workspace --bins >&2
else
  # What runs on every host has a profile of its own, which makes it small.
  cargo build --locked --release --workspace --exclude chom-agent --exclude chom-agent-libvirt --bins >&2
  cargo build --locked --profile agent --package chom-agent --package chom-agent-libvirt --bins >&2
  install --mode=755 "$target/agent/chom-agent" "$target/agent/chom-agent-libvirt" "$target/release/"
fi
echo "$target/$profile"
