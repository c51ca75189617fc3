#!/usr/bin/env bash
# CHOM's main job on this machine, for real: an orchestrator, a mail server and two hosts with systemd, libvirt and Incus of
# their own; a VPS and a container are created over HTTPS and greet; one host dies, its alert mail arrives, it comes back.
# Usage: packaging/demo.sh [--check] [--simulate]
#   --check      runs through all of it and exits, 0 if every step worked
#   --simulate   hosts are only processes and VPSs only entries in a file; for machines that forbid namespaces or mounts
# Needs root: it installs packages and makes namespaces and mounts. Everything it makes goes when it ends (Ctrl-C);
# packages and caches (${CHOM_CACHE_DIR:-/var/cache/chom}) stay. Timers are short here: idle timeout 5 s, unreachable
# after 5 s, `for` 5 s, group_wait 0; a fleet of your own has those of packaging/config/orchestrator.toml.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

check=no simulate=no
for option in "$@"; do
  case $option in
    --check) check=yes ;;
    --simulate) simulate=yes ;;
    *) sed -n '4,6s/^# *//p' "$0" >&2; exit 2 ;;
  esac
done
((EUID == 0)) || { echo "demo.sh: run it as root: it installs packages and makes namespaces and mounts" >&2; exit 1; }

export CHOM_FLEET=demo CHOM_FLEET_NET=0
readonly FLEET=tests/fleet/fleet.sh
work=$(mktemp -d /var/tmp/chom-demo.XXXXXX)
readonly work
began=$SECONDS
step_began=$SECONDS
title=
pids=()

begin() {
  title=$1 step_began=$SECONDS
  echo
  if [[ $simulate == yes ]]; then echo "▶ [SIMULATED] $title"; else echo "▶ $title"; fi
}
end() { echo "  ✔ $((SECONDS - step_began)) s${1:+: $1}"; }
fail() {
  echo "  ✘ $title: $1" >&2
  for log in "$work"/*.log; do
    [[ ! -s $log ]] || { echo "--- the last of ${log##*/}" >&2; tail -n 25 "$log" >&2; }
  done
  exit 1
}
# Waits until a command succeeds.
within() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || fail "no $what within the time allowed"
    sleep 0.2
  done
}
clean_up() {
  local status=$?
  trap - EXIT INT TERM
  echo
  echo "▶ cleaning up"
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  [[ $simulate == yes ]] || "$FLEET" down-all >>"$work/fleet.log" 2>&1 || cat "$work/fleet.log" >&2
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

begin "looking for what is missing on this machine"
tests/fleet/setup.sh
if [[ $simulate == yes ]]; then
  end "SIMULATED: hosts are processes, VPSs are entries in a file"
elif ! "$FLEET" check; then
  echo "  Hosts of their own cannot run here. A simulated fleet can: packaging/demo.sh --simulate" >&2
  exit 3
else
  end
fi

begin "building CHOM, the hosts' root file system and a tiny disk image (quick when done before)"
if [[ $simulate == no ]]; then
  (tests/fleet/rootfs.sh && tests/fleet/image.sh && tests/fleet/container.sh) >"$work/caches.log" 2>&1 &
  caches=$!
fi
bin=$(packaging/build.sh)
if [[ $simulate == no ]]; then
  wait "$caches" || fail "the root file system or the image could not be built"
  image=$(tests/fleet/image.sh)
  container=$(tests/fleet/container.sh)
  rm "$work/caches.log"
  address=10.77.0.1 engine=libvirt format=qcow2
  "$FLEET" net-up
else
  image=$work/image.raw address=127.0.0.1 engine=fake format=raw
  head -c 1048576 /dev/zero >"$image"
fi
end

begin "starting the orchestrator and a mail server that keeps what it gets"
mkdir -p "$work/mails"
"$bin/chom-mail-sink" --listen "$address:2525" --dir "$work/mails" >"$work/mail.log" 2>&1 &
pids+=($!)
cat >"$work/orchestrator.toml" <<CONFIG
state_directory = "$work/orchestrator"
export_directory = "$work/exports"
master_key = "$work/master.key"
listen_api = "$address:8443"
listen_link = "$address:8440"
public_addresses = ["$address:8440"]
regions = ["us-east", "eu-west"]
unreachable_after_seconds = 5
grace_seconds = 10

[link]
idle_timeout_seconds = 5

[agent]
report_interval_seconds = 1
reconcile_interval_seconds = 5
stop_grace_seconds = 20

[alerts]
for_seconds = 5
group_wait_seconds = 0
group_interval_seconds = 1

[[size]]
name = "small"
cores = 1
memory_mib = 192
disk_mib = 256

[[image]]
name = "hello"
file = "$image"
engine = "$engine"
format = "$format"
minimum_disk_mib = 64
default = true
CONFIG
[[ $simulate == yes ]] || cat >>"$work/orchestrator.toml" <<CONFIG

[[image]]
name = "hello-container"
file = "$container"
format = "incus_tarball"
default = true
CONFIG
"$bin/chom-orchestrator" --config "$work/orchestrator.toml" init >"$work/init.out" 2>"$work/orchestrator.log" ||
  fail "chom-orchestrator init"
TOKEN=$(grep -oE 'chom-api-[A-Za-z0-9_-]+' "$work/init.out" | head -n 1)
[[ -n $TOKEN ]] || fail "init printed no token"
"$bin/chom-orchestrator" --config "$work/orchestrator.toml" run >>"$work/orchestrator.log" 2>&1 &
pids+=($!)
api=https://$address:8443
ca=$work/orchestrator/ca.pem
call() { curl -sS --fail-with-body --cacert "$ca" -H "Authorization: Bearer $TOKEN" "$@"; }
ready() { curl -sf --cacert "$ca" "$api/readyz" >/dev/null 2>&1; }
within 30 "ready orchestrator" ready
export XDG_CONFIG_HOME=$work/config
chomctl() { "$bin/chomctl" "$@"; }
printf '%s\n' "$TOKEN" | chomctl context add demo --server "$api" --ca-file "$ca" --token-stdin >/dev/null
chomctl smtp configure --host "$address" --port 2525 --security none --from chom@demo.example --to admin@demo.example >/dev/null ||
  fail "the mail server could not be configured"
end "$api"

hosts=(east west)
regions=(us-east eu-west)
agent_pids=()
start_simulated() {
  "$bin/chom-agent" --config "$work/$1/agent.toml" run >>"$work/$1.log" 2>&1 &
  agent_pids[$2]=$!
  pids+=($!)
}
begin "bringing up two hosts and enrolling them"
bring_up() {
  local host=$1 place=$2 code
  code=$(chomctl host add "$host" --region "${regions[$place]}" -o json | jq -r .join_code)
  if [[ $simulate == yes ]]; then
    mkdir -p "$work/$host"
    cat >"$work/$host/agent.toml" <<CONFIG
state_directory = "$work/$host/state"
runtime_directory = "$work/$host/run"
engines = ["fake"]
CONFIG
    "$bin/chom-agent" --config "$work/$host/agent.toml" enrol "$code" >>"$work/$host.log" 2>&1
    start_simulated "$host" "$place"
  else
    {
      "$FLEET" up "$host" && "$FLEET" install-agent "$host" "$bin" &&
        "$FLEET" exec "$host" sh -c "echo 'storage_pools: [{name: default, driver: dir}]' | incus admin init --preseed" &&
        "$FLEET" exec "$host" chom-agent enrol "$code" &&
        "$FLEET" exec "$host" systemctl enable --now --no-block chom-agent
    } >>"$work/fleet.log" 2>&1
  fi
}
for place in 0 1; do bring_up "${hosts[$place]}" "$place" || fail "host ${hosts[$place]} did not come up"; done
usable() {
  [[ $(call "$api/api/hosts" | jq '[.items[] | select(.state == "connected" and (.engines | map(select(.problem == null)) | length > 0))] | length') == 2 ]]
}
within 60 "connected host with a working engine" usable
chomctl host list
end

begin "creating a VPS with one call"
cat <<CALL
  curl -X POST $api/api/vps-servers -H "Authorization: Bearer \$TOKEN" \\
       -H 'Content-Type: application/json' -d '{"name":"test-vps","region":"us-east","size":"small"}'
CALL
call -X POST "$api/api/vps-servers" -H 'Content-Type: application/json' \
  -d '{"name":"test-vps","region":"us-east","size":"small"}' >"$work/created.json" ||
  { cat "$work/created.json" >&2; fail "the call was refused"; }
vps=$(jq -r .vps.id "$work/created.json")
chomctl operation wait "$(jq -r .operation.id "$work/created.json")" --timeout 2m ||
  fail "the VPS did not come to run"
end "it runs"

if [[ $simulate == no ]]; then
  begin "waiting for the VPS to say hello on its serial console"
  "$FLEET" exec east virsh -q -c qemu:///system list
  greeting() { "$FLEET" exec east grep -a -m 1 'chom-hello: hello from test-vps' "/var/lib/chom-agent/vps/$vps/console.log" 2>/dev/null; }
  said() { greeting >"$work/greeting"; }
  within 90 "greeting" said
  sed 's/^/  console: /' "$work/greeting"
  end

  begin "creating a container beside it: the same call with \"engine\":\"incus\""
  call -X POST "$api/api/vps-servers" -H 'Content-Type: application/json' \
    -d '{"name":"test-box","region":"us-east","size":"small","engine":"incus"}' >"$work/created.json" ||
    { cat "$work/created.json" >&2; fail "the call was refused"; }
  chomctl operation wait "$(jq -r .operation.id "$work/created.json")" --timeout 2m ||
    fail "the container did not come to run"
  "$FLEET" exec east incus list -c nst
  end
fi

mail_with() { grep -lsE "^Subject: .*$1" "$work"/mails/* >"$work/found" 2>/dev/null; }
show_mail() { sed -n '1,/^$/{/^\(From\|To\|Subject\|Date\):/p}' "$(head -n 1 "$work/found")" | sed 's/^/  mail: /'; }
begin "killing host east (a power cut) and waiting for the mail"
if [[ $simulate == yes ]]; then { kill -9 "${agent_pids[0]}"; wait "${agent_pids[0]}"; } 2>/dev/null || true; else "$FLEET" kill east >>"$work/fleet.log" 2>&1; fi
within 60 "mail about the dead host" mail_with 'FIRING.*HostUnreachable'
show_mail
chomctl vps list
end "the VPS is shown as unknown, not as off"

begin "bringing host east back and waiting for the mail that says so"
if [[ $simulate == yes ]]; then start_simulated east 0; else "$FLEET" start east >>"$work/fleet.log" 2>&1; fi
within 90 "resolved mail" mail_with 'RESOLVED.*HostUnreachable'
show_mail
running() { [[ $(call "$api/api/vps-servers/$vps" | jq -r .observed.state) == running ]]; }
within 180 "running VPS after its host's return" running
chomctl vps list
end "the VPS runs again"

echo
echo "All of it in $((SECONDS - began)) s."
[[ $simulate == no ]] || echo "SIMULATED: hosts were processes, VPSs entries in a file."
if [[ $check == yes ]]; then exit 0; fi
cat <<NEXT

The API is at    $api   (documents: $api/api/openapi.json)
Its token        $TOKEN
The fleet's CA   $ca

Go on with chomctl:
  export XDG_CONFIG_HOME=$XDG_CONFIG_HOME PATH=\$PATH:$bin
  chomctl vps list
  chomctl vps create web --region eu-west --size small --wait
  chomctl events --follow

Ctrl-C ends the demo and removes everything it made.
NEXT
sleep infinity &
pids+=($!)
wait $!
