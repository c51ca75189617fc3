#!/usr/bin/env bash
# The test fleet: hosts that are systemd machines of their own (systemd-nspawn on one shared root file system, a network
# namespace and an address each) with libvirt and QEMU inside, on one machine, in about a second each.
#
#   fleet.sh check                       says what this machine lacks for it; exit 3 if hosts cannot run here
#   fleet.sh net-up | net-down           the fabric: a bridge in a namespace of its own; this machine gets 10.77.X.1/24
#   fleet.sh up NAME                     makes and starts a host (also starts one that is off); prints its address
#   fleet.sh start NAME                  starts a host that is off, with the disk it had; prints its address
#   fleet.sh kill NAME                   a power cut: SIGKILL of all that runs there; its disk stays
#   fleet.sh reboot NAME                 an orderly reboot, waits until it is up again
#   fleet.sh down NAME | down-all        removes the host (all hosts, the fabric and the state folder)
#   fleet.sh exec NAME COMMAND…          runs a command in the host; input, output and exit status pass through
#   fleet.sh push NAME SOURCE DEST       copies a file or a folder's content into the host, running or not
#   fleet.sh cut NAME | heal NAME        pulls the host's cable (silently: it keeps its carrier) | plugs it in again
#   fleet.sh install-agent NAME BINDIR   puts chom-agent, chom-agent-libvirt and the unit in place; starts nothing
#   fleet.sh logs NAME UNIT [OPTION…]    journalctl of that unit; works on a host that is off, too
#   fleet.sh address NAME | list         the address | all hosts: name, address, state, cable
#
# CHOM_FLEET (default demo) names a fleet; CHOM_FLEET_NET (0-255, default 0) is the X above: fleets that differ in both
# can exist at once. CHOM_FLEET_DIR is where disks lie (default: the first of /var/tmp, /var/lib, /run that can hold an
# overlay's upper layer). CHOM_FLEET_BOOT_SECONDS (default 60) is the deadline of a boot. CHOM_FLEET_KVM=no keeps
# /dev/kvm out of the hosts. Needs root.
#
# It looks at the machine instead of assuming: with systemd as PID 1 a host is a transient service with a delegated
# cgroup; without, a detached process in cgroups made here. Tried on hybrid v1 without systemd, and under systemd on a
# v2 without controllers; not yet on v2 with controllers. Where PID 1 does not reap orphans, the starter of each boot
# stays behind as a zombie: it holds nothing but its process id.
set -euo pipefail

SELF=$(realpath "${BASH_SOURCE[0]}")
readonly SELF
readonly HERE=${SELF%/*}
readonly FLEET=${CHOM_FLEET:-demo}
readonly NET=${CHOM_FLEET_NET:-0}
readonly SUBNET=10.77.$NET
readonly FABRIC=chom.$FLEET    # network namespace that holds the bridge
readonly UPLINK=chom$NET       # this machine's end of the cable to the bridge
readonly BRIDGE=br0
readonly BOOT_SECONDS=${CHOM_FLEET_BOOT_SECONDS:-60}
readonly STOP_SECONDS=20       # a power cut is seen within a second; more means that something is stuck
readonly REBOOT_SECONDS=60     # an orderly one with guests takes about 5 s; a guest may ignore its power button
readonly NUMBER_MAX=200        # host k has address 10+k
readonly REBOOT_STATUS=133     # how nspawn says that the machine inside asked for a reboot
readonly V1_CONTROLLERS="cpu cpuacct cpu,cpuacct cpuset memory devices freezer blkio pids systemd unified"

die() { echo "fleet.sh: $*" >&2; exit 1; }
usage() { sed -n '5,18s/^# *//p' "$SELF" >&2; exit 2; }
now_ms() { local us=${EPOCHREALTIME/[.,]/}; echo $((us / 1000)); }

# Waits until the command given succeeds, at most SECONDS.
wait_until() {
  local deadline=$(($(now_ms) + $1 * 1000)); shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.05
  done
}

systemd_is_init() { [[ -d /run/systemd/system && $(cat /proc/1/comm) == systemd ]]; }
cgroup_is_v2() { [[ -e /sys/fs/cgroup/cgroup.controllers ]]; }

# ---- state ----------------------------------------------------------------------------------------------------------

# An overlay's upper layer may lie neither on an overlay nor, as disks of VPSs go there, in memory.
choose_state() {
  local parent kind
  for parent in ${CHOM_FLEET_DIR:-/var/tmp /var/lib /run}; do
    mkdir -p "$parent"
    kind=$(findmnt -n -o FSTYPE -T "$parent" | tail -n 1)
    if [[ -n ${CHOM_FLEET_DIR:-} || ($kind != tmpfs && $kind != overlay) ]]; then
      [[ -n ${CHOM_FLEET_DIR:-} ]] && echo "$parent/$FLEET" || echo "$parent/chom-fleet/$FLEET"
      return
    fi
  done
  die "none of /var/tmp, /var/lib, /run can hold an overlay's upper layer; set CHOM_FLEET_DIR to a folder that can"
}

need_host() {
  HOST=${1:-}
  [[ $HOST =~ ^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$ ]] || die "a host's name is lower-case letters, digits and hyphens, not '$HOST'"
  DIR=$STATE/hosts/$HOST
  NAMESPACE=$FABRIC.$HOST
  UNIT=$FABRIC.$HOST
}
need_existing() {
  need_host "${1:-}"
  [[ -f $DIR/number ]] || die "there is no host '$HOST' in fleet '$FLEET'; make it: fleet.sh up $HOST"
}
number() { cat "$DIR/number"; }
address() { echo "$SUBNET.$((10 + $(number)))"; }

# The nspawn process of the host, if it runs.
supervisor() {
  local pid
  if systemd_is_init; then
    pid=$(systemctl show -p MainPID --value "$UNIT.service")
  else
    pid=$(cat "$DIR/supervisor.pid" 2>/dev/null) || return 1
  fi
  # A number alone proves nothing: ids are used again.
  [[ ${pid:-0} != 0 ]] && grep -qzxF -- "--machine=$UNIT" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# PID 1 of the host as this machine sees it.
host_init() {
  local pid child
  pid=$(supervisor) || return 1
  for child in $(pgrep -P "$pid"); do
    if awk '/^NSpid:/ { one = ($NF == 1) } END { exit !one }' "/proc/$child/status" 2>/dev/null; then
      echo "$child"
      return
    fi
  done
  return 1
}

# shellcheck source=tests/fleet/host.sh
. "$HERE/host.sh"

# ---- commands -------------------------------------------------------------------------------------------------------

make_host() {
  local lower k
  lower=$("$HERE/rootfs.sh")
  exec 9>"$STATE/.lock"
  flock 9
  net_up
  if [[ ! -f $DIR/number ]]; then
    mkdir -p "$DIR"/{upper/etc,work,root}
    chmod 755 "$DIR/upper" # what the host sees as the mode of /
    for ((k = 1; k <= NUMBER_MAX; k++)); do
      grep -qxF "$k" "$STATE"/hosts/*/number 2>/dev/null || break
    done
    ((k <= NUMBER_MAX)) || die "fleet '$FLEET' has $NUMBER_MAX hosts already"
    echo "$lower" >"$DIR/lower"
    echo "$HOST" >"$DIR/upper/etc/hostname"
    tr -d - </proc/sys/kernel/random/uuid >"$DIR/upper/etc/machine-id"
    printf '127.0.0.1 localhost\n%s %s\n%s orchestrator\n' "$SUBNET.$((10 + k))" "$HOST" "$SUBNET.1" >"$DIR/upper/etc/hosts"
    echo "$k" >"$DIR/number"
  fi
  exec 9>&-
}

command_up() {
  need_host "${1:-}"
  mkdir -p "$STATE/hosts"
  make_host
  is_off && launch
  await_ready
  address
}

command_start() {
  need_existing "${1:-}"
  net_up
  is_off || die "$HOST runs already"
  launch
  await_ready
  address
}

command_reboot() {
  need_existing "${1:-}"
  local before
  before=$(host_init) || die "$HOST is off; start it: fleet.sh start $HOST"
  in_host systemctl reboot
  wait_until "$REBOOT_SECONDS" is_gone "$before" || die "$HOST did not go down within $REBOOT_SECONDS s"
  await_ready
}
# shellcheck disable=SC2317 # wait_until calls it
is_gone() { [[ ! -e /proc/$1 ]]; }

command_kill() {
  need_existing "${1:-}"
  power_cut
}

command_down() {
  need_host "${1:-}"
  [[ -d $DIR ]] || return 0
  if [[ -f $DIR/number ]]; then power_cut; fi
  if mountpoint -q "$DIR/root"; then umount "$DIR/root" || umount --lazy "$DIR/root"; fi
  rm -rf --one-file-system "$DIR"
}

command_down_all() {
  local dir
  for dir in "$STATE"/hosts/*/; do
    [[ ! -d $dir ]] || command_down "$(basename "$dir")"
  done
  net_down
  rm -rf --one-file-system "$STATE"
  rmdir "${STATE%/*}" 2>/dev/null || true # another fleet may live there
}

command_exec() {
  need_existing "${1:-}"
  shift
  (($# > 0)) || usage
  in_host "$@"
}

command_push() {
  (($# == 3)) || usage
  need_existing "$1"
  local source=$2 dest=$3 mode
  [[ -e $source ]] || die "there is no $source to push"
  mode=$(stat -c %a "$source")
  if [[ ! -d $source && $dest == */ ]]; then dest+=$(basename "$source"); fi
  if is_off; then
    mountpoint -q "$DIR/root" || die "$HOST was never started"
    mkdir -p "$(dirname "$DIR/root/$dest")"
    if [[ -d $source ]]; then cp -aT "$source" "$DIR/root/$dest"; else install -D -m "$mode" "$source" "$DIR/root/$dest"; fi
  elif [[ -d $source ]]; then
    # shellcheck disable=SC2016 # expanded inside the host
    tar -C "$source" --owner=0 --group=0 -c . | in_host sh -c 'mkdir -p "$1" && tar -C "$1" -x' sh "$dest"
  else
    # Renamed into place, so that a program that runs can be replaced.
    # shellcheck disable=SC2016 # expanded inside the host
    in_host sh -c 'mkdir -p "$(dirname "$1")" && cat >"$1.pushed" && chmod "$2" "$1.pushed" && mv "$1.pushed" "$1"' \
      sh "$dest" "$mode" <"$source"
  fi
}

command_cut() {
  need_existing "${1:-}"
  touch "$DIR/cut"
  is_off || ip -n "$FABRIC" link set "port$(number)" nomaster
}

command_heal() {
  need_existing "${1:-}"
  rm -f "$DIR/cut"
  is_off || ip -n "$FABRIC" link set "port$(number)" master "$BRIDGE"
}

command_install_agent() {
  (($# == 2)) || usage
  local name=$1 bindir=$2 file
  for file in chom-agent chom-agent-libvirt; do
    [[ -x $bindir/$file ]] || die "$bindir/$file is not there: build it first"
  done
  command_push "$name" "$bindir/chom-agent" /usr/bin/chom-agent
  command_push "$name" "$bindir/chom-agent-libvirt" /usr/libexec/chom/chom-agent-libvirt
  command_push "$name" "$HERE/../../packaging/systemd/chom-agent.service" /etc/systemd/system/chom-agent.service
  is_off || in_host systemctl daemon-reload
}

command_logs() {
  need_existing "${1:-}"
  (($# >= 2)) || usage
  local unit=$2
  shift 2
  if is_off; then
    chroot "$DIR/root" journalctl --no-pager --directory=/var/log/journal --unit="$unit" "$@"
  else
    in_host journalctl --no-pager --unit="$unit" "$@"
  fi
}

command_list() {
  local dir state cable
  for dir in "$STATE"/hosts/*/; do
    [[ -f $dir/number ]] || continue
    need_host "$(basename "$dir")"
    state=running
    cable=plugged
    ! is_off || state=off
    [[ ! -e $DIR/cut ]] || cable='cut'
    printf '%s\t%s\t%s\t%s\n' "$HOST" "$(address)" "$state" "$cable"
  done
}

# Tries each facility for real instead of asking for versions.
command_check() {
  local missing=() probe tool
  for tool in awk findmnt flock ip mmdebstrap nsenter pgrep setsid systemd-nspawn tar unshare; do
    command -v "$tool" >/dev/null || missing+=("the command $tool (run tests/fleet/setup.sh)")
  done
  ((EUID == 0)) || missing+=("root: run it as root")
  unshare --mount --uts --ipc --net --pid --cgroup --fork true 2>/dev/null || missing+=("namespaces: unshare is refused")
  [[ -c /dev/net/tun ]] || missing+=("/dev/net/tun: VPSs get no network card without it")
  if ((EUID == 0)) && command -v ip >/dev/null; then
    probe=chomprobe$$
    if ip netns add "$probe" 2>/dev/null; then
      ip -n "$probe" link add br0 type bridge 2>/dev/null || missing+=("network bridges: ip link add type bridge is refused")
      ip -n "$probe" link add v0 type veth peer name v1 2>/dev/null || missing+=("veth pairs: ip link add type veth is refused")
      ip netns delete "$probe"
    else
      missing+=("named network namespaces: ip netns add is refused")
    fi
    mkdir -p "${STATE%/*}"
    probe=$(mktemp -d "${STATE%/*}/.probe.XXXXXX")
    mkdir "$probe"/{lower,upper,work,root}
    if mount -t overlay probe -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/root" 2>/dev/null; then
      umount "$probe/root"
    else
      missing+=("overlay mounts below ${STATE%/*} (set CHOM_FLEET_DIR to a folder on ext4, xfs or btrfs)")
    fi
    rm -rf "$probe"
    rmdir "${STATE%/*}" 2>/dev/null || true
    UNIT=chomprobe$$
    if systemd_is_init; then
      systemctl is-system-running --quiet || [[ $(systemctl is-system-running) == degraded ]] || missing+=("systemd that is up: systemctl is-system-running says otherwise")
    else
      (join_cgroups) 2>/dev/null || missing+=("cgroups that can be written below /sys/fs/cgroup")
      leave_no_cgroups
    fi
  fi
  if ((${#missing[@]} > 0)); then
    echo "fleet.sh: hosts cannot run on this machine; it lacks:" >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 3
  fi
  echo "hosts can run on this machine"
}

[[ $FLEET =~ ^[a-z][a-z0-9-]{0,15}$ ]] || die "CHOM_FLEET is a short name of lower-case letters, digits and hyphens, not '$FLEET'"
[[ $NET =~ ^(0|[1-9][0-9]{0,2})$ && $NET -le 255 ]] || die "CHOM_FLEET_NET is a number from 0 to 255, not '$NET'"
(($# > 0)) || usage
action=$1
shift
[[ $action == check || $EUID == 0 ]] || die "run it as root"
STATE=$(choose_state)
case $action in
  check) command_check ;;
  net-up) net_up ;;
  net-down) net_down ;;
  up) command_up "$@" ;;
  start) command_start "$@" ;;
  kill) command_kill "$@" ;;
  reboot) command_reboot "$@" ;;
  down) command_down "$@" ;;
  down-all) command_down_all ;;
  exec) command_exec "$@" ;;
  push) command_push "$@" ;;
  cut) command_cut "$@" ;;
  heal) command_heal "$@" ;;
  install-agent) command_install_agent "$@" ;;
  logs) command_logs "$@" ;;
  list) command_list ;;
  address) need_existing "${1:-}"; address ;;
  _run) need_existing "${1:-}"; run_detached ;;
  _net) need_existing "${1:-}"; host_net_up ;;
  _become) need_existing "${1:-}"; become_host ;;
  *) usage ;;
esac; exit # on one line: a host outlives an edit of this file, and bash reads on where it stopped
