#!/usr/bin/env bash
# Brings up a real Slurm on this machine for tests: munged, slurmctld and a few slurmds, as root, without systemd or
# cgroups. Idempotent: run again, it starts only what is missing, or everything anew if the settings changed.
#
#     slurm/devcluster/up.sh              install what is missing (Debian, Ubuntu), then start
#     slurm/devcluster/up.sh --install    only install
#     slurm/devcluster/down.sh            the end, by pid
#
# Everything lies under $DEVCLUSTER_DIR; commands find the cluster by SLURM_CONF, which is printed.
set -euo pipefail

DIR=${DEVCLUSTER_DIR:-/tmp/screening-devcluster} # state, spool, logs, pids, fake devices
NODES=${DEVCLUSTER_NODES:-2}                     # virtual nodes n1, n2, ...: a slurmd each
CPUS=${DEVCLUSTER_CPUS:-4}                       # of each node; may exceed the hardware
MEM=${DEVCLUSTER_MEM:-8000}                      # MB of each node; not enforced
GPUS=${DEVCLUSTER_GPUS:-2}                       # fake GPUs of each node
CTLD_PORT=${DEVCLUSTER_PORT:-26817}              # slurmctld listens here,
NODE_PORT=${DEVCLUSTER_NODE_PORT:-27000}         # and the slurmd of node i on this + i
EXTRA=${DEVCLUSTER_EXTRA:-}                      # more lines for slurm.conf
TIMEOUT=${DEVCLUSTER_TIMEOUT:-60}                # seconds until all nodes must be idle

say() { printf 'devcluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[ "$(id -u)" = 0 ] || die "must be root: it starts daemons and makes devices"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$DIR"; chmod 755 "$DIR"; DIR=$(cd "$DIR" && pwd -P)
exec 9>"$DIR/.lock"; flock -w 120 9 || die "another up.sh or down.sh is at work in $DIR"

# --- packages --------------------------------------------------------------------------------------------------
need=()
for each in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge; do
  command -v "${each%%:*}" >/dev/null || need+=("${each##*:}")
done
if [ "${#need[@]}" -gt 0 ]; then
  command -v apt-get >/dev/null || die "${need[*]} are missing, and there is no apt-get to install them with"
  say "installing ${need[*]}"
  # The packages would start services; here the daemons are started below.
  policy=/usr/sbin/policy-rc.d made=0
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; }
  export DEBIAN_FRONTEND=noninteractive
  fetch() { apt-get install -y -q --no-install-recommends "${need[@]}" >"$DIR/apt.log" 2>&1 9>&-; }
  fetch || { apt-get update -q >>"$DIR/apt.log" 2>&1 9>&- && fetch; } || { tail -20 "$DIR/apt.log" >&2; die "apt-get failed"; }
  [ $made = 0 ] || rm -f $policy
  hash -r
fi
[ "${1:-}" != --install ] || exit 0

# --- configuration ---------------------------------------------------------------------------------------------
HOST=$(hostname -s 2>/dev/null || hostname) ETC=$DIR/etc MUNGE=$DIR/munge
mkdir -p "$ETC" "$DIR"/{log,pid,dev,state,spool}
devices=()
for ((i = 0; i < GPUS; i++)); do
  # A plain file would leave CUDA_VISIBLE_DEVICES unset, a bare count makes the node invalid: a clone of /dev/null does.
  [ -c "$DIR/dev/nvidia$i" ] || mknod -m 666 "$DIR/dev/nvidia$i" c 1 3 2>/dev/null || true
  fallback=(/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty)
  if [ -c "$DIR/dev/nvidia$i" ]; then devices+=("$DIR/dev/nvidia$i"); else devices+=("${fallback[$i]}"); fi
done
nodes=n1; [ "$NODES" -eq 1 ] || nodes="n[1-$NODES]"

slurm_conf() {
  cat <<END
ClusterName=devcluster
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job is held: 120 s unless told otherwise.
AuthInfo=socket=$MUNGE/munge.socket,cred_expire=10
SlurmctldPort=$CTLD_PORT
SlurmctldPidFile=$DIR/pid/slurmctld.pid
SlurmdPidFile=$DIR/pid/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
MpiDefault=none
MailProg=/bin/true
# Not linuxproc, which loses the children of a batch shell that dies at SIGTERM.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
# From up to 3 s between submission and start down to 0.1 to 0.8 s.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,bf_continue
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
MessageTimeout=5
KillWait=5
UnkillableStepTimeout=30
MinJobAge=600
InactiveLimit=60
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
DefMemPerCPU=$((MEM / CPUS < 500 ? MEM / CPUS : 500))
END
  [ "$GPUS" -eq 0 ] || echo GresTypes=gpu
  for ((i = 1; i <= NODES; i++)); do
    local gres=""; [ "$GPUS" -eq 0 ] || gres="Gres=gpu:$GPUS"
    echo "NodeName=n$i NodeAddr=127.0.0.1 NodeHostname=$HOST Port=$((NODE_PORT + i)) CPUs=$CPUS RealMemory=$MEM $gres State=UNKNOWN"
  done
  echo "PartitionName=main Nodes=$nodes Default=YES MaxTime=24:00:00 DefaultTime=00:10:00 PriorityTier=1 State=UP"
  echo "PartitionName=high Nodes=$nodes MaxTime=24:00:00 DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF State=UP"
  [ -z "$EXTRA" ] || printf '%s\n' "$EXTRA"
}
gres_conf() { [ "$GPUS" -eq 0 ] || (IFS=,; echo "NodeName=$nodes Name=gpu File=${devices[*]}"); }
# slurmd 22.05 starts a cgroup plugin though nothing uses it; this one touches nothing.
cgroup_conf() { printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n'; }

alive() { # PIDFILE COMMAND: whether that process runs; a zombie, which a container may never reap, is dead
  local pid; pid=$(cat "$1" 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$(awk '/^Name:/{n=$2} /^State:/{s=$2} END{if (s !~ /[ZX]/) print n}' "/proc/$pid/status" 2>/dev/null)" = "$2" ]
}

settings=$(slurm_conf; gres_conf; cgroup_conf)
if [ -f "$ETC/.settings" ] && [ "$settings" != "$(cat "$ETC/.settings")" ]; then
  say "other settings: starting anew"
  DEVCLUSTER_DIR=$DIR DEVCLUSTER_LOCKED=1 "$HERE/down.sh" 9>&-
  mkdir -p "$DIR"/{state,spool}
fi
# Job ids begin at another number after each down.sh, so that nothing named by one meets an older run's.
[ -s "$ETC/.first" ] || echo $(($(date +%s) % 1000000 * 10 + 1000)) >"$ETC/.first"
{ slurm_conf; echo "FirstJobId=$(cat "$ETC/.first")"; } >"$ETC/slurm.conf"
gres_conf >"$ETC/gres.conf"; cgroup_conf >"$ETC/cgroup.conf"; printf '%s\n' "$settings" >"$ETC/.settings"
export SLURM_CONF=$ETC/slurm.conf

# --- daemons ---------------------------------------------------------------------------------------------------
until_true() { # TRIES COMMAND...: try ten times a second
  local k tries=$1; shift
  for ((k = 0; k < tries; k++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  return 1
}
controller_answers() { scontrol ping | grep -q 'is UP'; }
munge_answers() { munge -S "$MUNGE/munge.socket" -n; }

if ! alive "$DIR/pid/munged.pid" munged; then
  install -d -m 0755 "$MUNGE"; rm -f "$MUNGE"/munge.socket*
  [ -s "$MUNGE/munge.key" ] || (umask 077; head -c 256 /dev/urandom >"$MUNGE/munge.key")
  munged --key-file="$MUNGE/munge.key" --socket="$MUNGE/munge.socket" --pid-file="$DIR/pid/munged.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$MUNGE/munge.seed" 9>&- || die "munged: $(tail -3 "$DIR/log/munged.log")"
  until_true 100 munge_answers || die "munged does not answer: $(tail -3 "$DIR/log/munged.log")"
fi
if ! alive "$DIR/pid/slurmctld.pid" slurmctld; then
  slurmctld -f "$SLURM_CONF" 9>&- || die "slurmctld: $(tail -5 "$DIR/log/slurmctld.log")"
  until_true 200 controller_answers || die "slurmctld does not answer: $(tail -5 "$DIR/log/slurmctld.log")"
fi
for ((i = 1; i <= NODES; i++)); do
  alive "$DIR/pid/slurmd-n$i.pid" slurmd && continue
  mkdir -p "$DIR/spool/n$i"
  slurmd -f "$SLURM_CONF" -N "n$i" 9>&- || die "slurmd of n$i: $(tail -5 "$DIR/log/slurmd-n$i.log")"
done

up() { sinfo -h -N -p main -o %T 2>/dev/null | grep -cxE 'idle|mixed|allocated|completing|reserved' || true; }
ends=$((SECONDS + TIMEOUT)) nudged=0
while [ "$(up)" -lt "$NODES" ]; do
  [ $SECONDS -lt $ends ] || { sinfo -N -l >&2; die "only $(up) of $NODES nodes are up after $TIMEOUT s"; }
  if [ $nudged = 0 ] && [ $SECONDS -gt $((ends - TIMEOUT + 3)) ]; then # one that somebody set down by hand
    scontrol update NodeName="$nodes" State=RESUME 2>/dev/null || true; nudged=1
  fi
  sleep 0.1
done
say "$NODES nodes of $CPUS processors, $GPUS GPUs and $MEM MB are up"
echo "export SLURM_CONF=$SLURM_CONF"
