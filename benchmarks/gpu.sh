#!/usr/bin/env bash
# The tests that need a GPU, then the benchmarks, whose figures go with the device's name into docs/benchmarks.md.
#
#     benchmarks/gpu.sh TOOLRL      a folder as benchmarks/run takes it
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pytest -n 0 -m gpu
exec benchmarks/run --device "$(python -c 'import torch; print(torch.cuda.get_device_name())')" "$@"
