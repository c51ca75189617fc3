#!/usr/bin/env bash
# Builds, once, the tiny system container that VPSs of the tests and the demo run under Incus: a root file system of only
# busybox (container/init says what it does), as a unified image of Incus of about 1 MB.
# Usage: container.sh   prints the path of the ready image (log on standard error)
# The cache is as in rootfs.sh: named by the recipe, complete or not there. The same recipe gives the same bytes.
set -euo pipefail

HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly HERE
cache=${CHOM_CACHE_DIR:-/var/cache/chom}
busybox=$(command -v busybox) || { echo "container.sh: busybox is missing: run tests/fleet/setup.sh" >&2; exit 1; }
recipe=$(cat "$busybox" "$HERE/container.sh" "$HERE"/container/* "$HERE/image/init" | sha256sum | cut -c1-12)
readonly target=$cache/container-$recipe
readonly image=$target/chom-hello.tar.gz

[[ -e $image ]] && { echo "$image"; exit 0; }
mkdir -p "$cache"
exec 8>"$cache/.container.lock"
flock 8
[[ -e $image ]] && { echo "$image"; exit 0; } # another process built it while this one waited

building=$target.building
trap 'rm -rf "$building"' EXIT
rm -rf "$building"
root=$building/image/rootfs
mkdir -p "$root"/{bin,dev,etc,proc,root,run,sbin,sys,tmp,var/lib/cloud/seed/nocloud-net} "$building/image/templates"

install -m 755 "$busybox" "$root/bin/busybox"
busybox --list | while read -r name; do [[ $name == busybox ]] || ln -s busybox "$root/bin/$name"; done
install -m 755 "$HERE/container/init" "$root/sbin/init"
# What the machine does with its seed, the container does in the same words.
awk '/^# YAML and JSON alike/ { on = 1 } /^# ---- the boot counter/ { on = 0 } on' "$HERE/image/init" >"$root/etc/seed.sh"
[[ -s $root/etc/seed.sh ]] || { echo "container.sh: image/init has no part about its seed any more" >&2; exit 1; }
ln -s var/lib/cloud/seed/nocloud-net "$root/seed"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:*:::::::' >"$root/etc/shadow"
echo 'root:x:0:' >"$root/etc/group"
echo 'PRETTY_NAME="CHOM hello"' >"$root/etc/os-release"
install -m 755 "$HERE/container/chpasswd" "$root/bin/chpasswd"

# As images with cloud-init have it: Incus writes the seed before each start.
seed=/var/lib/cloud/seed/nocloud-net
{
  printf 'architecture: %s\ncreation_date: 1700000000\nproperties:\n  description: chom-hello\n  os: busybox\n' "$(uname -m)"
  echo 'templates:'
  for name in meta-data user-data network-config; do
    printf '  %s/%s:\n    when: [create, copy, start]\n    template: %s.tpl\n' "$seed" "$name" "$name"
  done
} >"$building/image/metadata.yaml"
echo '{{ config_get("user.meta-data", "") }}' >"$building/image/templates/meta-data.tpl"
echo '{{ config_get("cloud-init.user-data", "") }}' >"$building/image/templates/user-data.tpl"
echo '{{ config_get("cloud-init.network-config", "") }}' >"$building/image/templates/network-config.tpl"

tar -C "$building/image" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 -c metadata.yaml rootfs templates |
  gzip -9n >"$building/chom-hello.tar.gz"
rm -rf "$building/image"
mv "$building" "$target"
for old in "$cache"/container-*; do
  [[ $old == "$target" ]] || rm -rf "$old" # hosts copy it; nothing stands on it
done
echo "container.sh: built, $(du -h "$image" | cut -f1)" >&2
echo "$image"
