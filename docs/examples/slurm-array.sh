#!/bin/bash
# Eight tasks, each a shard, over a file system that all nodes see: sbatch docs/examples/slurm-array.sh
# The same line again makes what is missing, of all shards or with --array=3,5 of some.
#SBATCH --job-name=reformer-bulk
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

SHARDS=8 # as in --array, so that some of them alone can be run again
exec reformer-export run OUT --file "in/*.parquet" --output results \
    --shard "${SLURM_ARRAY_TASK_ID}/${SHARDS}" --threads "${SLURM_CPUS_PER_TASK}" --batch-tokens 4096
