#!/bin/bash
# The whole sweep on one GPU in so many minutes: gpu.sh CLIPS.npz OUTPUT_FOLDER [MINUTES [PROCESSES]]
# A nano model's step is bound by launching kernels, so many processes share the card. With MPS (NVIDIA's multi-process
# service) their kernels run beside each other; where it does not start they take turns.
set -u
here=$(dirname "$0") clips=$1 out=$2 minutes=${3:-6.5} jobs=${4:-16} start=$SECONDS
sweep() { # SECONDS_LEFT
  python3 "$here/sweep.py" "$here/rows.yaml" --clips "$clips" --output "$out/ablation.jsonl" --device cuda \
    --jobs "$jobs" --fit 126 --minutes "$(awk "BEGIN { print $1 / 60 }")" 2>&1 | tee -a "$out/ablation.log"
  return "${PIPESTATUS[0]}"
}
left() { awk "BEGIN { print 60 * $minutes - ($SECONDS - $start) }"; }
mkdir -p "$out"
if command -v nvidia-cuda-mps-control > /dev/null; then
  export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps-pipe CUDA_MPS_LOG_DIRECTORY=/tmp/mps-log
  mkdir -p $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY
  if nvidia-cuda-mps-control -d && timeout 40 python3 -c "import torch; torch.ones(9, device='cuda').sum().item()"; then
    echo "MPS started" | tee -a "$out/ablation.log"
    sweep "$(left)" && done=1
    echo quit | timeout 10 nvidia-cuda-mps-control
    [ -n "${done:-}" ] && exit 0
  fi
  echo quit | timeout 10 nvidia-cuda-mps-control
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
fi
echo "without MPS" | tee -a "$out/ablation.log"
sweep "$(left)"
