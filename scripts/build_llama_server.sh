#!/usr/bin/env bash
# Builds llama.cpp's server, on the CPU alone, from the sources that llama-cpp-python publishes: build_llama_server.sh FOLDER
# It ends at once where FOLDER holds the server already.
set -euo pipefail
out=${1:?give the folder to build in}
version=0.3.36

if [[ -x $out/bin/llama-server ]]; then
    exit 0
fi
for tool in cmake c++; do
    command -v "$tool" >/dev/null || { echo "build_llama_server.sh: $tool is missing; install it first" >&2; exit 1; }
done
mkdir -p "$out"
"${VENV:-.venv}/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$out" "llama-cpp-python==$version"
mkdir -p "$out/source"
tar -xzf "$out/llama_cpp_python-$version.tar.gz" -C "$out/source" --strip-components=1
# Without its web page, which would be downloaded, and without TLS, which loopback does not need.
cmake -S "$out/source/vendor/llama.cpp" -B "$out" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
cmake --build "$out" --target llama-server --parallel "$(nproc)"
