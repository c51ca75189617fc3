#!/usr/bin/env bash
# Builds, once, the tiny bootable disk image that VPSs of the tests and the demo run: a Debian cloud kernel, a busybox
# initramfs (image/init says what it does) and a boot loader, in a qcow2 of some 20 MB that boots with 128 MiB of memory.
# Usage: image.sh   prints the path of the ready image (log on standard error)
# It drives virtio, SCSI and IDE disks; SATA (AHCI) is not in Debian's cloud kernel, so no seed is found there.
# Nothing is mounted or installed for it. The cache is as in rootfs.sh: named by the recipe, complete or not there.
set -euo pipefail

HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly HERE
readonly KERNEL=linux-image-cloud-amd64
# Loaded in this order by the guest; what they depend on is added.
readonly MODULES=(
  virtio_pci virtio_blk virtio_scsi virtio_net virtio_balloon virtio_rng ata_piix sd_mod sr_mod
  isofs vfat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 button evdev
)
# The boot partition holds kernel, initramfs and loader; the second one only a boot counter. In sectors of 512 bytes.
readonly BOOT_START=2048 BOOT_SECTORS=81920 DATA_START=83968 DATA_SECTORS=16384 DISK_SECTORS=102400

cache=${CHOM_CACHE_DIR:-/var/cache/chom}
# shellcheck disable=SC1091 # says which Debian, and so which kernel, the recipe finds
recipe=$(. /etc/os-release && { echo "${VERSION_ID:-}"; cat "$HERE/image.sh" "$HERE/image/init"; } | sha256sum | cut -c1-12)
readonly target=$cache/image-$recipe
readonly image=$target/chom-hello.qcow2

[[ -e $image ]] && { echo "$image"; exit 0; }
for tool in depmod cpio mkfs.vfat mcopy syslinux sfdisk qemu-img xz zstd; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || { echo "image.sh: $tool is missing: run tests/fleet/setup.sh" >&2; exit 1; }
done
export PATH=$PATH:/usr/sbin:/sbin MTOOLS_SKIP_CHECK=1

mkdir -p "$cache"
exec 8>"$cache/.image.lock"
flock 8
[[ -e $image ]] && { echo "$image"; exit 0; } # another process built it while this one waited

building=$target.building
trap 'rm -rf "$building"' EXIT
rm -rf "$building"
mkdir -p "$building"/{deb,root/bin,root/etc}
started=$SECONDS
echo "image.sh: building $image (once)" >&2

# ---- kernel: the package's name leads to the one that holds it ----
download() {
  real=$(apt-cache depends --no-recommends "$KERNEL" 2>/dev/null | awk '/Depends: linux-image-/ && !found++ { print $2 }')
  [[ -n $real ]] && (cd "$building/deb" && apt-get -q -o APT::Sandbox::User=root download "$real" >&2)
}
# The lists may be missing or older than the archive: renewed once.
download || { apt-get -q update >&2 && download; } || {
  echo "image.sh: cannot download the package behind $KERNEL; apt-get's words are above" >&2
  exit 1
}
dpkg-deb -x "$building"/deb/*.deb "$building/deb/root"
vmlinuz=$(echo "$building"/deb/root/boot/vmlinuz-*)
version=${vmlinuz##*/vmlinuz-}
modules=lib/modules/$version
packaged=$building/deb/root
[[ -d $packaged/$modules ]] || packaged=$building/deb/root/usr

# ---- initramfs: busybox, the modules with all they depend on, uncompressed as busybox cannot unpack each kind ----
depmod -b "$packaged" "$version"
for module in "${MODULES[@]}"; do
  # A built-in one has no file; one that this kernel lacks is no loss, as the guest goes by what it finds.
  modprobe --dirname "$packaged" --set-version "$version" --show-depends "$module" 2>/dev/null |
    awk '$1 == "insmod" { print $2 }' || true
done | sort -u | while read -r file; do
  relative=${file#"$packaged"/}
  mkdir -p "$building/root/$(dirname "$relative")"
  case $file in
    *.xz) xz -dc "$file" >"$building/root/${relative%.xz}" ;;
    *.zst) zstd -qdc "$file" >"$building/root/${relative%.zst}" ;;
    *) cp "$file" "$building/root/$relative" ;;
  esac
done
cp "$packaged/$modules"/modules.{builtin,builtin.modinfo,order} "$building/root/$modules/"
depmod -b "$building/root" "$version"
[[ -n $(find "$building/root/$modules" -name 'virtio_blk.ko') ]] || { echo "image.sh: no virtio_blk module in $real" >&2; exit 1; }
printf '%s\n' "${MODULES[@]}" >"$building/root/etc/modules"
busybox=$(command -v busybox)
cp "$busybox" "$building/root/bin/busybox"
ln -s busybox "$building/root/bin/sh"
install -m 755 "$HERE/image/init" "$building/root/init"
cat >"$building/root/etc/udhcpc" <<'UDHCPC'
#!/bin/sh
# Called by udhcpc with what the DHCP server said.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
echo "$ip" >/run/address
UDHCPC
chmod 755 "$building/root/etc/udhcpc"
(cd "$building/root" && find . | sort | cpio --quiet -o -H newc -R 0:0 | gzip -9n) >"$building/initrd"

# ---- the disk: two FAT partitions, made as files and put in place ----
mkfs.vfat -F 16 -n CHOM-BOOT -h "$BOOT_START" -C "$building/boot.img" $((BOOT_SECTORS / 2)) >/dev/null
mkfs.vfat -F 12 -n CHOM-DATA -h "$DATA_START" -C "$building/data.img" $((DATA_SECTORS / 2)) >/dev/null
cat >"$building/syslinux.cfg" <<CONFIG
SERIAL 0 115200
DEFAULT chom
PROMPT 0
TIMEOUT 1
LABEL chom
  KERNEL /vmlinuz
  APPEND initrd=/initrd console=ttyS0,115200 quiet panic=5
CONFIG
mcopy -i "$building/boot.img" "$vmlinuz" ::vmlinuz
mcopy -i "$building/boot.img" "$building/initrd" "$building/syslinux.cfg" ::
syslinux --install "$building/boot.img"
truncate -s $((DISK_SECTORS * 512)) "$building/disk.img"
sfdisk --quiet "$building/disk.img" <<TABLE
label: dos
start=$BOOT_START, size=$BOOT_SECTORS, type=e, bootable
start=$DATA_START, size=$DATA_SECTORS, type=1
TABLE
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$building/disk.img" bs=440 count=1 conv=notrunc status=none
dd if="$building/boot.img" of="$building/disk.img" bs=512 seek="$BOOT_START" conv=notrunc,sparse status=none
dd if="$building/data.img" of="$building/disk.img" bs=512 seek="$DATA_START" conv=notrunc,sparse status=none
qemu-img convert -c -O qcow2 "$building/disk.img" "$building/chom-hello.qcow2"

find "$building" -mindepth 1 -maxdepth 1 ! -name chom-hello.qcow2 -exec rm -rf {} +
mv "$building" "$target"
for old in "$cache"/image-*; do
  [[ $old == "$target" ]] || rm -rf "$old" # hosts copy it; nothing stands on it
done
echo "image.sh: built in $((SECONDS - started)) s, $(du -h "$image" | cut -f1), kernel $version" >&2
echo "$image"
