# shellcheck shell=bash
# How a host of the test fleet runs: its network namespace and cable, its cgroups, its container, its end.
# Sourced by fleet.sh, whose names (FLEET, HOST, DIR, UNIT, …) it uses; it decides nothing about which hosts there are.
# shellcheck disable=SC2153,SC2154 # they are set there

# ---- network --------------------------------------------------------------------------------------------------------

has_namespace() { [[ -e /run/netns/$1 ]]; }

net_up() {
  if ! has_namespace "$FABRIC"; then
    [[ ! -e /sys/class/net/$UPLINK ]] || die "subnet $SUBNET.0/24 is another fleet's: set CHOM_FLEET_NET"
    ip netns add "$FABRIC"
    ip -n "$FABRIC" link set lo up
    ip -n "$FABRIC" link add "$BRIDGE" type bridge forward_delay 0
    ip -n "$FABRIC" link set "$BRIDGE" up
  fi
  if [[ ! -e /sys/class/net/$UPLINK ]]; then
    ip link add "$UPLINK" type veth peer name uplink netns "$FABRIC"
    ip -n "$FABRIC" link set uplink master "$BRIDGE" up
    ip address add "$SUBNET.1/24" dev "$UPLINK"
    ip link set "$UPLINK" up
  fi
}

net_down() {
  # The host's ends of the cables go with the fabric's.
  if has_namespace "$FABRIC"; then
    [[ ! -e /sys/class/net/$UPLINK ]] || ip link delete "$UPLINK"
    ip netns delete "$FABRIC"
  fi
}

# A namespace made anew for each boot: what the last one left (virbr0, rules, addresses) is gone with the old one.
host_net_up() {
  local port
  port=port$(number)
  host_net_down
  ip netns add "$NAMESPACE"
  ip -n "$FABRIC" link add "$port" type veth peer name eth0 netns "$NAMESPACE"
  [[ -e $DIR/cut ]] || ip -n "$FABRIC" link set "$port" master "$BRIDGE"
  ip -n "$FABRIC" link set "$port" up
  ip -n "$NAMESPACE" link set lo up
  ip -n "$NAMESPACE" address add "$(address)/24" dev eth0
  ip -n "$NAMESPACE" link set eth0 up
  ip -n "$NAMESPACE" route add default via "$SUBNET.1"
}

host_net_down() {
  ip -n "$FABRIC" link delete "port$(number)" 2>/dev/null || true
  if has_namespace "$NAMESPACE"; then ip netns delete "$NAMESPACE"; fi
}

# ---- cgroups, where no systemd keeps them ------------------------------------------------------------------------------

# The cgroup of the host in every hierarchy there is.
host_cgroups() {
  local controller
  if cgroup_is_v2; then
    echo "/sys/fs/cgroup/$UNIT"
  else
    for controller in $V1_CONTROLLERS; do
      [[ -L /sys/fs/cgroup/$controller || ! -e /sys/fs/cgroup/$controller/cgroup.procs ]] || echo "/sys/fs/cgroup/$controller/$UNIT"
    done
  fi
}

# Moves the calling (sub)shell into the host's cgroups.
join_cgroups() {
  local group file controller controllers
  if cgroup_is_v2; then
    # Refused where processes sit in the root group, as in a container: then there are no limits inside, nothing worse.
    read -ra controllers </sys/fs/cgroup/cgroup.controllers
    for controller in "${controllers[@]}"; do
      echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
  fi
  for group in $(host_cgroups); do
    mkdir -p "$group"
    for file in cpuset.cpus cpuset.mems; do # of v1: a cpuset without them takes no process
      if ! cgroup_is_v2 && [[ -e $group/$file ]]; then cat "${group%/*}/$file" >"$group/$file"; fi
    done
    echo "$BASHPID" >"$group/cgroup.procs"
  done
}

# Removes the host's cgroups, what lives in them first.
leave_no_cgroups() {
  local group
  for group in $(host_cgroups); do
    [[ -d $group ]] || continue
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | xargs -r kill -KILL 2>/dev/null || true
    wait_until "$STOP_SECONDS" remove_cgroup "$group" || die "cannot remove cgroup $group: see its cgroup.procs"
  done
}
remove_cgroup() {
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  [[ ! -d $1 ]]
}

# ---- running --------------------------------------------------------------------------------------------------------

# Becomes the host: the network namespace is entered outside nspawn, or the host would see this machine's /sys/class/net.
become_host() {
  local devices=() device
  for device in /dev/net/tun /dev/kvm; do
    [[ ! -e $device || ($device == /dev/kvm && ${CHOM_FLEET_KVM:-yes} == no) ]] || devices+=("--bind=$device")
  done
  exec nsenter --net="/run/netns/$NAMESPACE" systemd-nspawn --quiet --settings=no --directory="$DIR/root" \
    --machine="$UNIT" --hostname="$HOST" --register=no --keep-unit --kill-signal=SIGRTMIN+3 --console=pipe \
    --resolv-conf=off --timezone=off --link-journal=no --capability=CAP_NET_ADMIN "${devices[@]}" /usr/sbin/rwinit
}

# Runs the host until it is off, across its own reboots. Detached; only where systemd is not PID 1.
run_detached() {
  local status descriptor
  # What the caller had open must not stay open as long as the host lives: somebody may wait for its end.
  for descriptor in "/proc/$BASHPID/fd/"*; do
    descriptor=${descriptor##*/}
    if ((descriptor > 2 && descriptor != 255)); then exec {descriptor}>&-; fi # 255: bash reads this script there
  done
  while true; do
    host_net_up
    status=0
    (
      echo "$BASHPID" >"$DIR/supervisor.pid"
      join_cgroups
      become_host
    ) || status=$?
    echo "fleet.sh: $HOST ended with $status"
    [[ $status == "$REBOOT_STATUS" ]] || break
    leave_no_cgroups
  done
}

# Starts the host without waiting for it.
launch() {
  [[ -d $(cat "$DIR/lower") ]] || die "the root file system that $HOST was made on is gone; remove it: fleet.sh down $HOST"
  mountpoint -q "$DIR/root" || mount -t overlay "$UNIT" \
    -o "lowerdir=$(cat "$DIR/lower"),upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
  if systemd_is_init; then
    # A service of its own, so that it outlives this shell, with the cgroup below it delegated to nspawn (v2 and v1).
    systemctl reset-failed "$UNIT.service" 2>/dev/null || true
    systemd-run --quiet --collect --unit="$UNIT" --service-type=exec -p Delegate=yes -p KillMode=mixed \
      -p TasksMax=infinity -p "RestartForceExitStatus=$REBOOT_STATUS" -p "SuccessExitStatus=$REBOOT_STATUS" \
      -p RestartSec=100ms -p StartLimitIntervalSec=0 \
      -p "StandardOutput=append:$DIR/console.log" -p "StandardError=append:$DIR/console.log" \
      -E "CHOM_FLEET=$FLEET" -E "CHOM_FLEET_NET=$NET" -E "CHOM_FLEET_DIR=${STATE%/*}" -E "CHOM_FLEET_KVM=${CHOM_FLEET_KVM:-yes}" \
      -p "ExecStartPre=$SELF _net $HOST" "$SELF" _become "$HOST"
  else
    CHOM_FLEET_DIR=${STATE%/*} setsid --fork "$SELF" _run "$HOST" </dev/null >>"$DIR/console.log" 2>&1
  fi
}

# libvirt's socket is enough: its first use starts the daemon, and nobody waits here for its look at QEMU.
is_ready() {
  local state
  state=$(in_host systemctl is-system-running 2>/dev/null) || true
  [[ $state == running || $state == degraded ]] && in_host systemctl --quiet is-active libvirtd.socket 2>/dev/null
}
await_ready() {
  wait_until "$BOOT_SECONDS" is_ready && return
  tail -n 20 "$DIR/console.log" >&2
  in_host systemctl list-jobs --no-pager >&2 2>/dev/null || true
  die "$HOST was not up within $BOOT_SECONDS s; the end of $DIR/console.log is above"
}

in_host() {
  local init
  init=$(host_init) || { echo "fleet.sh: $HOST is off" >&2; return 125; }
  nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup -- \
    /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    TERM="${TERM:-dumb}" "$@"
}

is_off() { ! supervisor >/dev/null; }

power_cut() {
  local victim
  # The init, not nspawn: PID 1 of a namespace takes all in it along, and nspawn lives to clean up after it.
  if victim=$(host_init) || victim=$(supervisor); then
    kill -KILL "$victim" 2>/dev/null || true
    wait_until "$STOP_SECONDS" is_off || die "$HOST still runs $STOP_SECONDS s after its init was killed"
  fi
  if systemd_is_init; then
    systemctl stop "$UNIT.service" 2>/dev/null || true # it may be about to start again
  else
    leave_no_cgroups
  fi
  rm -f "$DIR/supervisor.pid"
  leave_no_mounts
  host_net_down
}

# What nspawn keeps for a host, where it could not remove it itself; a later start would trip over it.
leave_no_mounts() {
  local folder
  for folder in propagate unix-export; do
    folder=/run/systemd/nspawn/$folder/$UNIT
    if mountpoint -q "$folder"; then umount "$folder" || umount --lazy "$folder"; fi
    rmdir "$folder" 2>/dev/null || true
  done
}
