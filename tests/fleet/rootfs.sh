#!/usr/bin/env bash
# Builds, once, the root file system that all hosts of the test fleet share: Debian 13 with systemd, libvirt, QEMU and Incus.
# Usage: rootfs.sh   prints the path of the ready directory (log on standard error); needs root
# A host is an overlay on this directory (see fleet.sh), so a host costs no copy and starts in about a second.
# The cache lies outside the clone, in ${CHOM_CACHE_DIR:-/var/cache/chom}, under a name that carries a hash of this
# script: another recipe is another directory. It is built aside and renamed, so what has the final name is complete.
set -euo pipefail

readonly SUITE=trixie
# No -gui, -modules-opengl or -modules-spice: hosts are headless. tar and coreutils come with the variant.
readonly PACKAGES=(
  ca-certificates dbus dnsmasq-base incus-base incus-client iproute2 iptables iputils-arping iputils-ping
  libvirt-clients libvirt-daemon-system nftables openssh-client procps qemu-system-x86 qemu-utils systemd systemd-sysv
  udev xorriso
)
cache=${CHOM_CACHE_DIR:-/var/cache/chom}
recipe=$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-12)
readonly target=$cache/rootfs-$SUITE-$recipe

[[ -d $target ]] && { echo "$target"; exit 0; }
((EUID == 0)) || { echo "rootfs.sh: run it as root" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "rootfs.sh: mmdebstrap is missing: run tests/fleet/setup.sh" >&2; exit 1; }

mkdir -p "$cache"
exec 8>"$cache/.rootfs.lock"
flock 8
[[ -d $target ]] && { echo "$target"; exit 0; } # another process built it while this one waited

# The machine's own Debian archive, whichever mirror that is, also serves the suite wanted here.
archive() {
  # shellcheck disable=SC2016 # the $(…) are apt's own fields
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F'|' '$1 == "Debian" && $2 == "Debian" && !found++ { print $3 }'
}
mirror=$(archive)
[[ -n $mirror ]] || { apt-get -q update >&2; mirror=$(archive); }
[[ -n $mirror ]] || { echo "rootfs.sh: no Debian archive among apt's sources" >&2; exit 1; }

building=$target.building
trap 'rm -rf "$building"' EXIT
rm -rf "$building"
started=$SECONDS
echo "rootfs.sh: building $target (once; some minutes)" >&2

# Written into the root before anything starts in it.
customise=$cache/.customise-$recipe
trap 'rm -rf "$building" "$customise"' EXIT
cat >"$customise" <<'CUSTOMISE'
#!/bin/sh
# Runs outside, with the new root as its argument.
set -eu
root=$1

# PID 1's first step. Where controllers are cgroup v1 (or hybrid), nspawn hands them over read-only; remounting them,
# and /proc/sys, before systemd starts makes the limits inside real. On v2 nspawn delegates by itself: nothing to do.
cat >"$root/usr/sbin/rwinit" <<'INIT'
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  for c in cpu cpuacct cpu,cpuacct cpuset memory devices freezer blkio pids; do
    [ -d "/sys/fs/cgroup/$c" ] && [ ! -L "/sys/fs/cgroup/$c" ] && mount -o remount,bind,rw "/sys/fs/cgroup/$c"
  done
fi
mount -o remount,bind,rw /proc/sys
exec /lib/systemd/systemd
INIT
chmod 755 "$root/usr/sbin/rwinit"

# QEMU runs as the host's root and without a security driver: inside a container neither chown to libvirt-qemu nor
# AppArmor profiles can be counted on.
cat >>"$root/etc/libvirt/qemu.conf" <<'QEMU'

user = "root"
group = "root"
security_driver = "none"
QEMU
# All hosts share one machine's SMBIOS; each has a machine-id of its own.
echo 'host_uuid_source = "machine-id"' >>"$root/etc/libvirt/libvirtd.conf"
# A guest that ignores ACPI would hold a reboot of the host for minutes.
echo 'SHUTDOWN_TIMEOUT=3' >>"$root/etc/default/libvirt-guests"
# With guests running a reboot would take another 35 s: libvirtd delays logind's shutdown, is then stopped while
# libvirt-guests still talks to it (Debian 13 orders that after the socket only), and waits 30 s for the end of that.
drop_in() {
  mkdir -p "$root/etc/systemd/$1.d"
  printf '%s\n' "$2" "$3" >"$root/etc/systemd/$1.d/fleet.conf"
}
drop_in logind.conf '[Login]' 'InhibitDelayMaxSec=1'
drop_in system/libvirt-guests.service '[Unit]' 'After=libvirtd.service'
drop_in system/libvirtd.service '[Service]' 'TimeoutStopSec=5'

echo 'root:1000000:1000000000' >"$root/etc/subuid"
echo 'root:1000000:1000000000' >"$root/etc/subgid"

# Hosts get these of their own when they are made; nothing of the build machine may stay.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/etc/resolv.conf"
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
echo localhost >"$root/etc/hostname"

# Nothing to do in a container without a clock, consoles, logins or package timers of its own.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  console-getty.service getty@.service systemd-timesyncd.service systemd-udev-trigger.service \
  systemd-firstboot.service virtlockd-admin.socket virtlogd-admin.socket; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# All is fresh: no ldconfig, catalogue or users to update at the first boot of each host.
touch "$root/etc/.updated" "$root/var/.updated"
# The journal of a killed host must still be there afterwards; keep it small.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\nSyncIntervalSec=1s\n' >"$root/etc/systemd/journald.conf.d/fleet.conf"
CUSTOMISE
chmod 755 "$customise"

mmdebstrap --quiet --mode=root --variant=minbase --components=main \
  --include="$(IFS=,; echo "${PACKAGES[*]}")" \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook="$customise" \
  "$SUITE" "$building" "$mirror" >&2
sync -f "$building"
mv "$building" "$target"

# Roots of older recipes go, except those a host still stands on.
for old in "$cache/rootfs-$SUITE-"*; do
  [[ $old == "$target" ]] || grep -qF "lowerdir=$old," /proc/mounts || rm -rf "$old"
done
echo "rootfs.sh: built in $((SECONDS - started)) s, $(du -sh "$target" | cut -f1)" >&2
echo "$target"
