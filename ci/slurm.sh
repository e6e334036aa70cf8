#!/bin/bash
# One node of eight GPUs training the paper's network; killed or out of time, the same command resumes where it stopped.
#   sbatch --export=ALL,DATA=/path/to/imagenet ci/slurm.sh --variant 1d --size tiny
#SBATCH --job-name=leanconv
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --signal=INT@120
#SBATCH --requeue
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
: "${DATA:?set DATA to the folder that holds ImageNet}"
: "${PYTHON:=.nox/$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/bin/python}"
exec srun "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node="$SLURM_GPUS_ON_NODE" \
  experiments/dwoconv1d/classification.py --data "$DATA" --resume "$@"
