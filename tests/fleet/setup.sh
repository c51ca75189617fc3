#!/usr/bin/env bash
# Installs, by Debian package name, what the build, the test fleet and the tests need on a fresh Debian 12 or 13 machine.
# Usage: setup.sh [PACKAGE…]   (further packages a caller wants, for example a peer for a benchmark)
# It installs only what is missing, asks the archive only then, and takes well under a second when all is there.
# It needs root and says so; it neither calls sudo nor touches a package that is already installed.
set -euo pipefail

packages=(
  # build: ring wants a C compiler, chom-agent-libvirt links libvirt
  ca-certificates curl gcc git libc6-dev libvirt-dev pkg-config
  # hosts: root file system, containers with systemd as PID 1, their network
  debian-archive-keyring iproute2 kmod mmdebstrap nftables procps systemd-container util-linux
  # the tiny disk image
  busybox-static cpio dosfstools fdisk mtools qemu-utils syslinux syslinux-common xz-utils zstd
  # a client that looks at a machine's screen, and what reads its picture
  libjpeg-turbo-progs vncsnapshot
  # the scripts themselves
  jq openssl python3 shellcheck
)
packages+=("$@")

missing=()
declare -A installed=()
while read -r status name; do
  [[ $status == installed ]] && installed[$name]=1
done < <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
  [[ -n ${installed[$package]:-} ]] || missing+=("$package")
done

if ((${#missing[@]} > 0)); then
  if ((EUID != 0)); then
    echo "setup.sh: these packages are missing: ${missing[*]}" >&2
    echo "setup.sh: run it as root, or install them with apt-get" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # Another installation may be under way: wait for it rather than fail.
  apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
  echo "setup.sh: installing ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "setup.sh: apt-get failed (its last lines are above); missing: ${missing[*]}" >&2
    exit 1
  fi
fi

# Debian's own Rust is older than the workspace asks for, so this is only said, not installed.
command -v cargo >/dev/null || [[ -x ${HOME:-/root}/.cargo/bin/cargo ]] ||
  echo "setup.sh: cargo is missing: building needs Rust as the workspace's rust-version says" >&2
