#!/bin/bash
# Everything that needs a GPU, offline, in about ten minutes:
#   bash ci/gpu_check.sh OUTDIR [build|test|sanitize|bench]...      no part named: all of them
# build     compiles the packages' native libraries in a copy of this tree (kept in $LEANCONV_GPU_TREE)
# test      pytest -m gpu: the contract of every op on CUDA, and what only a GPU can show
# sanitize  compute-sanitizer memcheck and racecheck on the contract's samples
# bench     the packages' benchmarks against cuDNN, eager torch, torch.compile and copy bandwidth, as JSON; and table 5 of
#           dwoconv1d's paper, which is experiments/dwoconv1d/runtime.py
# OUTDIR gets one log per part and per package in it, junit_*.xml, the benchmarks' JSON and summary.json. A part that fails does
# not stop the next; the exit status tells. PYTHON chooses the interpreter: it needs torch with CUDA, pytest, nvcc beside it, and
# CuPy for its tests.
# Packages are built, tested and sanitized side by side, so that a part takes as long as its slowest package; only benchmarks
# run alone, and share the seconds of their part.
set -uo pipefail
TEST_SECONDS=200 MEMCHECK_SECONDS=40 RACECHECK_SECONDS=30 START_SECONDS=25 BENCH_SECONDS=170 RUNTIME_SECONDS=90
LARGE=more_than_two_to_the_31_elements  # in the name of tests
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

# Calls "$1 NAME" for every package, and for every further argument, at once; each writes a log of its own, the end of which is
# shown. Fails if one of them does.
side_by_side() {
  local work=$1 names=("${NAMES[@]}" "${@:2}") jobs=() status=0 lines i
  for i in "${!names[@]}"; do
    "$work" "${names[i]}" > "$OUT/${work}_${names[i]}.log" 2>&1 &
    jobs+=($!)
  done
  for i in "${!names[@]}"; do
    lines=5
    wait "${jobs[i]}" || { status=$? lines=60 && echo "-- $work ${names[i]} failed"; }
    tail -n $lines "$OUT/${work}_${names[i]}.log"
  done
  return $status
}

build_package() {
  # Without pyproject.toml any setuptools will do: there is no network to fetch a newer one from.
  (cd "$TREE/packages/$1" && mv pyproject.toml pyproject.aside && "$PYTHON" setup.py build_ext --build-lib built &&
    mv built/"$1"/*.so src/"$1"/ && mv pyproject.aside pyproject.toml) && "$PYTHON" -m "$1"
}

build() {
  rm -rf "$TREE" && mkdir -p "$TREE" || return
  (cd "$ROOT" && tar -cf - --exclude='*.so' --exclude=build --exclude=__pycache__ pyproject.toml packages shared tests ci) |
    tar -xf - -C "$TREE" || return
  side_by_side build_package
}

# What the other parts start from: a GPU, and libraries built by this or an earlier call.
ready() {
  "$PYTHON" -c 'import torch, sys; sys.exit("torch sees no GPU here." if not torch.cuda.is_available() else 0)' || return
  local name
  for name in "${NAMES[@]}"; do
    compgen -G "$TREE/packages/$name/src/$name/_C_cuda*.so" > /dev/null || { build; return; }
  done
}

run_pytest() { timeout $TEST_SECONDS "$PYTHON" -m pytest -m gpu -p no:cacheprovider --junitxml="$OUT/junit_$1.xml" "${@:2}"; }

test_package() {
  local folder=$1
  [ -d "packages/$1" ] && folder=packages/$1
  run_pytest "$1" -k "not $LARGE" "$folder"
}

# Tests that fill a GPU's memory come after the others, one by one.
test_() {
  ready && cd "$TREE" || return
  local status=0
  side_by_side test_package tests || status=$?
  run_pytest large -k "$LARGE" packages || status=$?
  return $status
}

sanitize_package() {
  local status=0
  # Without torch's pool every tensor is an allocation of its own, so a step outside it is seen.
  # API errors are torch's own probing, which it handles.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout $((MEMCHECK_SECONDS + START_SECONDS)) compute-sanitizer --tool memcheck \
    --report-api-errors no --error-exitcode 9 "$PYTHON" ci/gpu_sanitize.py "$1" --seconds $MEMCHECK_SECONDS || status=$?
  timeout $((RACECHECK_SECONDS + START_SECONDS)) compute-sanitizer --tool racecheck --racecheck-report all \
    --error-exitcode 9 "$PYTHON" ci/gpu_sanitize.py "$1" --seconds $RACECHECK_SECONDS || status=$?
  return $status
}

sanitize() { ready && cd "$TREE" && side_by_side sanitize_package; }

bench() {
  ready && cd "$TREE" || return
  local status=0 script name scripts=(packages/*/benchmarks/[!_]*.py)
  for script in "${scripts[@]}"; do
    name=$(basename "$(dirname "$(dirname "$script")")")_$(basename "$script" .py)
    timeout $((BENCH_SECONDS / ${#scripts[@]})) "$PYTHON" "$script" --device cuda --quick \
      --json "$OUT/bench_$name.json" || status=$?
  done
  timeout $RUNTIME_SECONDS "$PYTHON" "$ROOT/experiments/dwoconv1d/runtime.py" --device cuda --seconds 0.1 \
    --out "$OUT/runtime_dwoconv1d" || status=$?
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
