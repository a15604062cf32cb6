#!/bin/sh
# Makes a folder with what the CUDA kernels and the TensorRT plugin are compiled with, without root.
#
#   get_cuda_toolchain.sh DESTINATION
#
#   DESTINATION/tensorrt/include   TensorRT's headers
#   DESTINATION/cuda               CUDA's compiler, headers and static runtime; a link when $CUDACXX
#                                  or nvcc on the PATH says that this machine has its own, 12.8 or newer
#
# Everything comes from pip, by the exact versions in requirements-cuda.txt; $PYTHON says which
# Python's pip (default python3).
set -eu

if [ $# -ne 1 ]; then
  echo "usage: $0 DESTINATION" >&2
  exit 2
fi
destination=$1
requirements=$(dirname "$0")/../requirements-cuda.txt

mkdir -p "$destination"
work=$(mktemp -d "$destination/unpacking.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Whether the compiler $1 says that it is 12.8 or newer.
is_new_enough() {
  "$1" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' \
    | awk '{ found = $1 > 12 || $1 == 12 && $2 >= 8 } END { exit !found }'
}

if compiler=${CUDACXX:-$(command -v nvcc)} && is_new_enough "$compiler"; then
  echo "CUDA compiler: $compiler"
  grep '^kernel-lens==' "$requirements" > "$work/requirements.txt"
else
  echo "CUDA compiler: from pip, into $destination/cuda"
  cp "$requirements" "$work/requirements.txt"
fi
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
  --only-binary :all: --target "$work/packages" -r "$work/requirements.txt"

rm -rf "$destination/cuda" "$destination/tensorrt"
if [ -d "$work/packages/nvidia/cu13" ]; then
  # nvcc looks for libraries in lib64, the packages have lib.
  ln -s lib "$work/packages/nvidia/cu13/lib64"
  mv "$work/packages/nvidia/cu13" "$destination/cuda"
else
  top=$("$compiler" --dryrun -E -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
  ln -s "$(realpath "$top")" "$destination/cuda"
fi
mkdir -p "$destination/tensorrt"
mv "$work/packages/kernel_lens/include/tensorrt" "$destination/tensorrt/include"
