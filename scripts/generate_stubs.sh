#!/usr/bin/env bash
# Generates the Python stubs of the contract with the toolchain of proto/requirements.txt.
#
#   generate_stubs.sh            writes client/archscore/v1
#   generate_stubs.sh --check    fails when what is committed differs from the contract
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv-proto/bin
out=client
if [[ ${1:-} == --check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

"$bin/python" -m grpc_tools.protoc -Iproto -Iproto/vendor \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  archscore/v1/scoring.proto

if [[ ${1:-} == --check ]]; then
  for stub in "$out"/archscore/v1/*; do
    diff -u "client/archscore/v1/$(basename "$stub")" "$stub" || {
      echo "stubs differ from the contract: run 'make proto'" >&2
      exit 1
    }
  done
  echo "stubs are up to date"
fi
