#!/bin/sh
# Everything that needs an NVIDIA GPU, without a network, in under six minutes; README.txt says more.
#
#   ./run.sh [--dry-run] [RESULTS]
#
# RESULTS is a folder (default gpu-results). $PYTHON is the Python with torch and transformers (default python3),
# $GPU_CHECK_SECONDS the time for all checks together, $GPU_CHECK_ONLY the steps to run ("layers,tests of").
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dry_run=
if [ "${1:-}" = --dry-run ]; then
  dry_run=--dry-run
  shift
fi
mkdir -p "${1:-gpu-results}"
results=$(CDPATH='' cd -- "${1:-gpu-results}" && pwd)
# ONNX Runtime looks for CUDA's libraries beside itself; here they lie where pip put them for torch.
libraries=$("${PYTHON:-python3}" - << 'END'
import glob, importlib.util
spec = importlib.util.find_spec("nvidia")
roots = spec.submodule_search_locations if spec else ()
print(":".join(folder for root in roots for folder in sorted(glob.glob(f"{root}/*/lib"))))
END
)
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$here/project:$here/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
cd "$here/project"
exec "${PYTHON:-python3}" -m tests.gpu.check --bundle "$here" --results "$results" \
  --seconds "${GPU_CHECK_SECONDS:-345}" ${GPU_CHECK_ONLY:+--only "$GPU_CHECK_ONLY"} $dry_run
