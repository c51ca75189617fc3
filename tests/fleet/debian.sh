#!/usr/bin/env bash
# Builds, once, a real Debian cloud image: Debian 13 with its cloud kernel, GRUB, systemd, cloud-init, an SSH server and
# QEMU's guest agent, as providers hand it out: nobody can log in until a seed says who. Needs root.
# Usage: debian.sh   prints the path of the ready qcow2 (log on standard error)
# No device and no mount of a disk: the file system is filled by mke2fs, the boot loader put in place byte by byte. The
# cache is as in rootfs.sh: named by the recipe, complete or not there.
set -euo pipefail

HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly HERE
readonly SUITE=trixie
readonly PACKAGES=(
  ca-certificates cloud-guest-utils cloud-init dbus e2fsprogs fdisk grub-pc-bin initramfs-tools iproute2 iputils-ping
  linux-image-cloud-amd64 netbase openssh-server procps qemu-guest-agent sudo systemd-sysv udev
)
# In sectors of 512 bytes: the only partition begins where partitioning tools let it, GRUB lies before it.
readonly ROOT_START=2048 ROOT_MIB=1536
readonly LABEL=chom-debian

cache=${CHOM_CACHE_DIR:-/var/cache/chom}
recipe=$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-12)
readonly target=$cache/debian-$recipe
readonly image=$target/debian-$SUITE.qcow2

[[ -e $image ]] && { echo "$image"; exit 0; }
((EUID == 0)) || { echo "debian.sh: run it as root" >&2; exit 1; }
export PATH=$PATH:/usr/sbin:/sbin
for tool in mmdebstrap mke2fs sfdisk qemu-img; do
  command -v "$tool" >/dev/null || { echo "debian.sh: $tool is missing: run tests/fleet/setup.sh" >&2; exit 1; }
done
# The hosts' own root file system knows the archive that it is from.
rootfs=$("$HERE/rootfs.sh")
mirror=$(awk '$1 == "deb" && !found++ { print $2 }' "$rootfs/etc/apt/sources.list")
[[ -n $mirror ]] || { echo "debian.sh: $rootfs/etc/apt/sources.list names no archive" >&2; exit 1; }

mkdir -p "$cache"
exec 8>"$cache/.debian.lock"
flock 8
[[ -e $image ]] && { echo "$image"; exit 0; } # another process built it while this one waited

building=$target.building
trap 'rm -rf "$building"' EXIT
rm -rf "$building"
mkdir -p "$building"
started=$SECONDS
echo "debian.sh: building $image (once; some minutes)" >&2

cat >"$building/customise" <<CUSTOMISE
#!/bin/sh
# Runs outside, with the new root as its argument.
set -eu
root=\$1
echo 'LABEL=$LABEL / ext4 rw,discard,errors=remount-ro 0 1' >"\$root/etc/fstab"
mkdir -p "\$root/boot/grub"
kernel=\$(basename "\$root"/boot/vmlinuz-*)
cat >"\$root/boot/grub/grub.cfg" <<GRUB
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
linux /boot/\$kernel root=LABEL=$LABEL ro console=tty0 console=ttyS0,115200 net.ifnames=0
initrd /boot/initrd.img-\${kernel#vmlinuz-}
boot
GRUB
chroot "\$root" grub-mkimage -O i386-pc -o /boot/grub/core.img -p '(hd0,msdos1)/boot/grub' \\
  biosdisk part_msdos ext2 linux normal serial terminal boot
cp "\$root/usr/lib/grub/i386-pc/boot.img" "\$root/boot/grub/core.img" "$building/"
# What each machine must have of its own, and what only this build knew.
rm -f "\$root"/etc/ssh/ssh_host_*_key* "\$root/var/lib/dbus/machine-id" "\$root/etc/resolv.conf"
echo uninitialized >"\$root/etc/machine-id"
echo localhost >"\$root/etc/hostname"
echo 'nameserver 127.0.0.53' >"\$root/etc/resolv.conf"
chroot "\$root" systemctl --quiet enable systemd-networkd
CUSTOMISE
chmod 755 "$building/customise"
mmdebstrap --quiet --mode=root --variant=minbase --components=main \
  --include="$(IFS=,; echo "${PACKAGES[*]}")" \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook="$building/customise" \
  "$SUITE" "$building/root" "$mirror" >&2

mke2fs -q -t ext4 -L "$LABEL" -d "$building/root" "$building/root.img" "${ROOT_MIB}M"
truncate -s $((ROOT_START * 512 + ROOT_MIB * 1024 * 1024)) "$building/disk.img"
sfdisk --quiet "$building/disk.img" <<TABLE
label: dos
start=$ROOT_START, type=83, bootable
TABLE
# As grub-mkimage writes it, the rest of GRUB follows its first sector, and the boot sector looks for that in sector 1.
(($(stat -c %s "$building/core.img") <= (ROOT_START - 1) * 512)) || { echo "debian.sh: GRUB does not fit before the partition" >&2; exit 1; }
dd if="$building/boot.img" of="$building/disk.img" bs=440 count=1 conv=notrunc status=none
dd if="$building/core.img" of="$building/disk.img" bs=512 seek=1 conv=notrunc status=none
dd if="$building/root.img" of="$building/disk.img" bs=1M seek=$((ROOT_START * 512))B conv=notrunc,sparse status=none
qemu-img convert -c -o compression_type=zstd -O qcow2 "$building/disk.img" "$building/debian-$SUITE.qcow2"

find "$building" -mindepth 1 -maxdepth 1 ! -name '*.qcow2' -exec rm -rf --one-file-system {} +
mv "$building" "$target"
for old in "$cache"/debian-*; do
  [[ $old == "$target" ]] || rm -rf "$old" # hosts copy it; nothing stands on it
done
echo "debian.sh: built in $((SECONDS - started)) s, $(du -h "$image" | cut -f1)" >&2
echo "$image"
