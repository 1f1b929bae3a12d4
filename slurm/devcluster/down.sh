#!/usr/bin/env bash
# Ends what up.sh started, by pid, with all jobs; safe to run twice, or when nothing runs. Logs stay, job state goes;
# with --purge all of $DEVCLUSTER_DIR goes.
set -uo pipefail
DIR=${DEVCLUSTER_DIR:-/tmp/screening-devcluster}
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'devcluster: %s\n' "$*" >&2; }
[ "$(id -u)" = 0 ] || { say "must be root"; exit 1; }
[ -d "$DIR" ] || exit 0
DIR=$(cd "$DIR" && pwd -P); export SLURM_CONF=$DIR/etc/slurm.conf
if [ -z "${DEVCLUSTER_LOCKED:-}" ]; then
  exec 9>"$DIR/.lock"; flock -w 120 9 || { say "another up.sh or down.sh is at work in $DIR"; exit 1; }
fi

running() { # PID COMMAND: a zombie counts as gone
  [ "$(awk '/^Name:/{n=$2} /^State:/{s=$2} END{if (s !~ /[ZX]/) print n}' "/proc/$1/status" 2>/dev/null)" = "$2" ]
}
stop() { # NAME COMMAND SECONDS
  local pid k; pid=$(cat "$DIR/pid/$1.pid" 2>/dev/null) && [ -n "$pid" ] && running "$pid" "$2" || return 0
  kill -CONT "$pid" 2>/dev/null; kill "$pid" 2>/dev/null
  for ((k = 0; k < $3 * 10; k++)); do running "$pid" "$2" || return 0; sleep 0.1; done
  say "$1 ($pid) did not stop and is killed"; kill -9 "$pid" 2>/dev/null
}

# Jobs first, so that slurmd ends them in the proper way.
if timeout 5 scontrol ping 2>/dev/null | grep -q 'is UP'; then
  timeout 10 squeue -h -t R -o %A 2>/dev/null | sort -u | xargs -r timeout 10 scancel --full -s KILL 2>/dev/null
  timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 10 scancel 2>/dev/null
  for ((k = 0; k < 60; k++)); do [ -z "$(timeout 5 squeue -h -o %A 2>/dev/null)" ] && break; sleep 0.1; done
fi
# A slurmd that was killed leaves its slurmstepds: they have files of this cluster open. What these started is theirs.
for comm in /proc/[0-9]*/comm; do
  [ "$(cat "$comm" 2>/dev/null)" = slurmstepd ] || continue
  pid=${comm#/proc/}; pid=${pid%/comm}
  ls -l "/proc/$pid/fd" 2>/dev/null | grep -qF "$DIR/" || continue
  for child in $(cat /proc/"$pid"/task/*/children 2>/dev/null); do
    kill -9 -- "-$child" 2>/dev/null || kill -9 "$child" 2>/dev/null
  done
  kill -9 "$pid" 2>/dev/null; say "left-over slurmstepd $pid killed"
done
# And processes that lost their slurmstepd: they carry this cluster's SLURM_CONF and a job's id.
for environ in /proc/[0-9]*/environ; do
  pid=${environ#/proc/}; pid=${pid%/environ}
  if [ "$pid" = $$ ] || [ "$pid" = "$PPID" ]; then continue; fi
  grep -qzxF "SLURM_CONF=$SLURM_CONF" "$environ" 2>/dev/null && grep -qz '^SLURM_JOB_ID=' "$environ" 2>/dev/null || continue
  kill -9 "$pid" 2>/dev/null && say "left-over process $pid of a job killed"
done
for file in "$DIR"/pid/slurmd-*.pid; do [ -e "$file" ] && stop "$(basename "$file" .pid)" slurmd 10; done
stop slurmctld slurmctld 15
stop munged munged 5
rm -rf "$DIR"/{pid,state,spool} "$DIR/etc/.settings" "$DIR/etc/.first"
if [ "${1:-}" = --purge ]; then rm -rf "$DIR"; fi
exit 0
