#!/bin/bash
# Everything that needs a GPU, offline, in under ten minutes:
#   bash ci/gpu_check.sh OUTDIR [build|test|sanitize|bench]...      no part named: all of them
# build     compiles the packages' native libraries in a copy of this tree (kept in $LEANCONV_GPU_TREE)
# test      pytest -m gpu: the contract of every op on CUDA, and what only a GPU can show
# sanitize  compute-sanitizer memcheck and racecheck on the contract's samples
# bench     the packages' benchmarks against cuDNN, eager torch, torch.compile and copy bandwidth, as JSON
# OUTDIR gets one log per part, junit.xml, the benchmarks' JSON and summary.json. A part that fails does not stop the next; the
# exit status tells. PYTHON chooses the interpreter: it needs torch with CUDA, pytest, nvcc beside it, and CuPy for its tests.
# All packages share the seconds of a part, so that the whole stays within its time however many there are.
set -uo pipefail
TEST_SECONDS=220 MEMCHECK_SECONDS=80 RACECHECK_SECONDS=50 BENCH_SECONDS=160
OUT=${1:?usage: bash ci/gpu_check.sh OUTDIR [build|test|sanitize|bench]...}
shift
PARTS=("$@")
[ ${#PARTS[@]} -eq 0 ] && PARTS=(build test sanitize bench)
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
TREE=${LEANCONV_GPU_TREE:-${TMPDIR:-/tmp}/leanconv_gpu_check}
export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
PYTHONPATH="$TREE/shared/src"
NAMES=()
for package in "$ROOT"/packages/*/setup.py; do
  name=$(basename "$(dirname "$package")")
  NAMES+=("$name")
  PYTHONPATH="$PYTHONPATH:$TREE/packages/$name/src"
  export "${name^^}_REQUIRE_NATIVE=1" "${name^^}_CUDA=1"
done
export PYTHONPATH

build() {
  rm -rf "$TREE" && mkdir -p "$TREE" || return
  (cd "$ROOT" && tar -cf - --exclude='*.so' --exclude=build --exclude=__pycache__ pyproject.toml packages shared tests ci) |
    tar -xf - -C "$TREE" || return
  local name
  for name in "${NAMES[@]}"; do
    # Without pyproject.toml any setuptools will do: there is no network to fetch a newer one from.
    (cd "$TREE/packages/$name" && mv pyproject.toml pyproject.aside && "$PYTHON" setup.py build_ext --build-lib built &&
      mv built/"$name"/*.so src/"$name"/ && mv pyproject.aside pyproject.toml) || return
    "$PYTHON" -m "$name" || return
  done
}

# What the other parts start from: a GPU, and libraries built by this or an earlier call.
ready() {
  "$PYTHON" -c 'import torch, sys; sys.exit("torch sees no GPU here." if not torch.cuda.is_available() else 0)' || return
  local name
  for name in "${NAMES[@]}"; do
    compgen -G "$TREE/packages/$name/src/$name/_C_cuda*.so" > /dev/null || { build; return; }
  done
}

test_() {
  ready && cd "$TREE" &&
    timeout $TEST_SECONDS "$PYTHON" -m pytest -m gpu -p no:cacheprovider --junitxml="$OUT/junit.xml" packages tests
}

sanitize() {
  ready && cd "$TREE" || return
  local status=0 name share=${#NAMES[@]}
  for name in "${NAMES[@]}"; do
    # Without torch's pool every tensor is an allocation of its own, so a step outside it is seen.
    # API errors are torch's own probing, which it handles.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout $MEMCHECK_SECONDS compute-sanitizer --tool memcheck --report-api-errors no \
      --error-exitcode 9 "$PYTHON" ci/gpu_sanitize.py "$name" --seconds $((MEMCHECK_SECONDS / share)) || status=$?
    timeout $RACECHECK_SECONDS compute-sanitizer --tool racecheck --racecheck-report all \
      --error-exitcode 9 "$PYTHON" ci/gpu_sanitize.py "$name" --seconds $((RACECHECK_SECONDS / share)) || status=$?
  done
  return $status
}

bench() {
  ready && cd "$TREE" || return
  local status=0 script name scripts=(packages/*/benchmarks/[!_]*.py)
  for script in "${scripts[@]}"; do
    name=$(basename "$(dirname "$(dirname "$script")")")_$(basename "$script" .py)
    timeout $((BENCH_SECONDS / ${#scripts[@]})) "$PYTHON" "$script" --device cuda --quick \
      --json "$OUT/bench_$name.json" || status=$?
  done
  return $status
}

failed=()
summary="{\"gpu\": \"$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)\""
summary+=", \"date\": \"$(date -u '+%Y-%m-%d %H:%M UTC')\", \"commit\": \"$(git -C "$ROOT" describe --always --dirty 2>/dev/null)\""
for part in "${PARTS[@]}"; do
  case $part in
    build | sanitize | bench) run=$part ;;
    test) run=test_ ;;
    *) echo "There is no part '$part'." >&2 && exit 2 ;;
  esac
  start=$SECONDS
  echo "== $part"
  # In a subshell: parts change folders.
  ($run) 2>&1 | tee "$OUT/$part.log"
  status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$part")
  echo "== $part: exit status $status after $((SECONDS - start)) s"
  summary+=", \"$part\": {\"status\": $status, \"seconds\": $((SECONDS - start))}"
done
echo "$summary}" > "$OUT/summary.json"
[ ${#failed[@]} -eq 0 ] || { echo "Failed: ${failed[*]}" && exit 1; }
