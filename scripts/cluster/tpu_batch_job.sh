#!/usr/bin/env bash
# Embeds a corpus on every host of a TPU VM slice; each host is a worker of its own, and none waits for another.
#
#   scripts/cluster/tpu_batch_job.sh TPU_NAME ZONE 'gs://bucket/corpus/*.parquet' /mnt/shared/out [options of tsjax batch ...]
#
# OUT is a folder that all hosts share (Filestore, or a bucket mounted with gcsfuse). tsjax comes from TSJAX_WHEEL, a
# gs:// URL of a wheel, or else from the package index; a host keeps what it has until it is given another wheel.
# Started again after a preemption, it goes on where it stopped, if a host that is new has the same versions of tsjax and
# jax: otherwise they are named, and the host can be given those of the manifest ($HOME/tsjax/bin/pip).
set -euo pipefail

if [ $# -lt 4 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
tpu=$1 zone=$2 input=$3 output=$4
shift 4

# Runs on each host. The host is a slice of its own to the TPU's runtime, which would otherwise wait for all the others.
read -r -d '' job <<'HOST' || true
set -euo pipefail
index=$1 count=$2 input=$3 output=$4 wheel=$5
shift 5
export TPU_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_CHIPS
export TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0 CLOUD_TPU_TASK_ID=0
chips=$(find /dev -maxdepth 2 \( -path '/dev/accel*' -o -path '/dev/vfio/[0-9]*' \) | wc -l)
case $chips in
  1) export TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 ;;
  4) export TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 ;;
  8) export TPU_CHIPS_PER_PROCESS_BOUNDS=2,4,1 ;;
  *) echo "this host has $chips chips; say how they lie in TPU_CHIPS_PER_PROCESS_BOUNDS" >&2; exit 2 ;;
esac
TPU_VISIBLE_CHIPS=$(seq -s, 0 $((chips - 1)))
package=tsjax sum=
if [ -n "$wheel" ]; then
  package=$HOME/$(basename "$wheel")
  gcloud storage cp "$wheel" "$package"
  sum=$(sha256sum < "$package")
fi
if [ ! -x "$HOME/tsjax/bin/tsjax" ]; then
  python3 -m venv "$HOME/tsjax"
  "$HOME/tsjax/bin/pip" install --quiet "$package[tpu,batch]" gcsfs
  echo "$sum" > "$HOME/tsjax/wheel"
elif [ -n "$wheel" ] && [ "$sum" != "$(cat "$HOME/tsjax/wheel" 2>/dev/null)" ]; then
  "$HOME/tsjax/bin/pip" install --quiet "$package[tpu,batch]" gcsfs
  "$HOME/tsjax/bin/pip" install --quiet --force-reinstall --no-deps "$package" # of the same version too
  echo "$sum" > "$HOME/tsjax/wheel"
fi
"$HOME/tsjax/bin/tsjax" batch --input "$input" --output "$output" --shard "$index/$count" --dtype bfloat16 "$@"
HOST

hosts=$(gcloud compute tpus tpu-vm describe "$tpu" --zone "$zone" --format 'value(networkEndpoints.len())')
echo "$tpu has $hosts hosts" >&2
workers=()
for ((index = 0; index < hosts; index++)); do
  command=$(printf '%q ' bash -c "$job" tsjax-batch "$index" "$hosts" "$input" "$output" "${TSJAX_WHEEL:-}" "$@")
  gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker "$index" --command "$command" &
  workers+=($!)
done
failed=0
for index in "${!workers[@]}"; do
  wait "${workers[$index]}" || { echo "worker $index failed; start the same command again" >&2; failed=1; }
done
[ "$failed" = 0 ] || exit 1

verify=$(printf '%q ' bash -c "\"\$HOME/tsjax/bin/tsjax\" batch verify \"\$1\"" tsjax-verify "$output")
gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker 0 --command "$verify"
