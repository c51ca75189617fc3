#!/usr/bin/env bash
# The benches: release programs, real processes, one table at the end; exit 1 when a target was missed.
# Usage: tests/bench/run.sh [BENCH…]   (host, containers, rest, images, scale, answers, api, creates; all when none is named; about 30 minutes)
# Needs root for the benches `host` and `containers`. Figures mean little on a machine that does other work: the load stands beside them.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."

readonly MINUTES_MAX=45   # each part has deadlines of its own; this ends what none of them saw
tests/fleet/setup.sh prometheus-node-exporter
bin=$(packaging/build.sh --release)
ulimit -n "$(ulimit -Hn)" # sockets and files of 2,000 agents
export CHOM_PROGRAMS=$bin RUST_LOG=${RUST_LOG:-warn}
echo "command: tests/bench/run.sh $*"
echo "machine: $(nproc) cores, $(awk '/^model name/ { sub(/.*: /, ""); print; exit }' /proc/cpuinfo), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
exec timeout --kill-after=60 "${MINUTES_MAX}m" "$bin/chom-bench" "$@"
