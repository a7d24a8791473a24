#!/bin/sh
# Builds the compiled JSON engine from native/.
#
#   tools/native.sh develop   into .venv, in place
#   tools/native.sh wheel     as a wheel in dist/
#   tools/native.sh asan      apart, with AddressSanitizer, and runs its tests; needs a nightly toolchain and gcc's libasan
#
# Needs cargo, which it looks for on PATH and where rustup puts it; it never fetches a toolchain.
set -eu
cd "$(dirname "$0")/.."

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export PATH MATURIN_NO_INSTALL_RUST=1 RUSTUP_AUTO_INSTALL=0

if ! command -v cargo >/dev/null 2>&1; then
    echo "milkrun: cargo is not there; install Rust 1.88 or later. Until then JSON is read in plain Python, which is slower" >&2
    exit 1
fi
# Compiled in a folder of its own: the sanitizer is loaded before Python, and watches this library alone.
run_asan() {
    libasan=$(gcc -print-file-name=libasan.so 2>/dev/null || true)
    if ! rustup toolchain list 2>/dev/null | grep -q '^nightly' || [ ! -e "$libasan" ]; then
        echo "milkrun: no nightly toolchain, or no libasan: the run under AddressSanitizer is left out" >&2
        return
    fi
    host=$(rustc -vV | sed -n 's/^host: //p')
    (cd native && RUSTFLAGS=-Zsanitizer=address PYO3_PYTHON=$PWD/../.venv/bin/python \
        cargo +nightly build --release --quiet --target "$host" --target-dir target/asan)
    cp "native/target/asan/$host/release/libmilkrun_native.so" native/target/asan/milkrun_native.abi3.so
    # Python gives memory back at its end, not before: leaks can't be told from that.
    env LD_PRELOAD="$libasan" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$PWD/native/target/asan" CI=true \
        MILKRUN_FUZZ_ROWS="${MILKRUN_FUZZ_ROWS:-1_000_000}" .venv/bin/python -m pytest -q -m "" --timeout 0 \
        tests/codecs/test_engines_fuzz.py tests/codecs/test_engines_agree.py tests/codecs/test_decode_cases.py \
        tests/codecs/test_encode_agree.py tests/codecs/test_encode_cases.py
}

maturin=$PWD/.venv/bin/maturin
dist=$PWD/dist
if [ "${1:-}" = asan ]; then
    run_asan
    exit
fi
cd native
case ${1:-} in
develop) VIRTUAL_ENV=$PWD/../.venv exec "$maturin" develop --release --quiet ;;
wheel) exec "$maturin" build --release --quiet --interpreter ../.venv/bin/python --out "$dist" ;;
*) echo "usage: tools/native.sh develop|wheel|asan" >&2 && exit 2 ;;
esac
