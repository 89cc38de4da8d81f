#!/bin/bash
# One training on machines of SLURM: sbatch deploy/slurm.sh s3://BUCKET/hlca.zarr s3://BUCKET/runs/hlca --config hlca
# Edit what is marked EDIT. One Ray node is a task, one task a machine. Words after atlas and run are given to `train`.
# Atlas and run are addresses in a bucket (AWS_* from your environment), or paths on a disk that all machines mount.
#SBATCH --job-name=cfgen
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=1
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=cfgen-%j.log
set -euo pipefail
# EDIT: the partition and account above, and how the environment that has this package comes to be:
source "${CFGEN_VENV:-$HOME/venv}/bin/activate"

if [ $# -lt 2 ]; then
    echo "usage: sbatch deploy/slurm.sh ATLAS RUN [OPTIONS OF train]" >&2
    exit 2
fi
atlas=$1 run=$2
shift 2

# Who lacks the token gets nothing; it lives in this job's environment, which srun hands on, and on no disk.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
cpus=${SLURM_CPUS_PER_TASK:-1} gpus=${SLURM_GPUS_PER_TASK:-0} gpus=${gpus##*:} # "a100:1" is one
folder=/tmp/ray-$SLURM_JOB_ID # of each machine; short: sockets live in it
port=$((20000 + SLURM_JOB_ID % 20000)) # others may have a job on the same machine
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# By name an address may be that of another network: ask the machine itself.
address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="${machines[0]}" hostname --ip-address | awk '{ print $1 }')

started=()
node() { # MACHINE OPTIONS...: a Ray node that lives as long as this script
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$1" \
        ray start --block --disable-usage-stats --num-cpus="$cpus" --num-gpus="$gpus" "${@:2}" &
    started+=($!)
}
stop() {
    [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap stop EXIT

node "${machines[0]}" --head --port="$port" --dashboard-host=127.0.0.1 --temp-dir="$folder"
# One after the other, and not before the head listens: of nodes that start at once some may hang.
for ((i = 0; ; i++)); do
    ! python -c "import socket; socket.create_connection(('$address', $port), 2)" 2>/dev/null || break
    [ "$i" -lt 60 ] || { echo "the head on ${machines[0]} does not listen on $address:$port after 2 minutes" >&2; exit 1; }
    echo "waiting for the head on ${machines[0]} to listen on $address:$port"
    sleep 2
done
for machine in "${machines[@]:1}"; do
    sleep "${CFGEN_PAUSE:-3}"
    node "$machine" --address="$address:$port"
done

# SLURM sends TERM to this shell before the time is up, or when somebody needs the machines: the driver gets it, saves,
# and the job is queued again, where --resume goes on.
each=(--cpus-per-worker "$cpus")
[ "$gpus" = 0 ] || each=(--gpus-per-worker "$gpus")
cfgen-dist train "$atlas" --out "$run" --resume --ray "$address:$port" --workers "${#machines[@]}" "${each[@]}" "$@" &
driver=$!
trap 'kill -TERM $driver; wait $driver || true; scontrol requeue "$SLURM_JOB_ID"; exit 0' TERM
wait $driver
