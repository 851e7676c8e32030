# shellcheck shell=bash
# Installs PostgreSQL with the system's package manager, and nothing but its binaries: no server is set up or started.
# Needs output.sh.

# Runs a command as root.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs PostgreSQL $POSTGRES_MINIMUM or newer, and installing it needs root: install it yourself, or set ROWLOCK_LOCAL_DATABASE_URL to a server that you have"
  fi
}

install_postgres() {
  say "PostgreSQL $POSTGRES_MINIMUM or newer is not installed: installing it"
  if command -v apt-get >/dev/null; then
    install_with_apt
  elif command -v dnf >/dev/null; then
    as_root dnf install --assumeyes --quiet postgresql-server
  elif command -v apk >/dev/null; then
    as_root apk add --quiet postgresql postgresql-client
  elif command -v brew >/dev/null; then
    brew install --quiet postgresql@17
  else
    fail "knows none of this system's package managers: install PostgreSQL $POSTGRES_MINIMUM or newer, or set ROWLOCK_LOCAL_DATABASE_URL to a server that you have"
  fi
}

# Debian's server packages make a cluster and start it on 5432 unless they are told not to: that is said for the time of
# the installation, and then the system's setting is as it was.
install_with_apt() (
  local settings=/etc/postgresql-common/createcluster.conf saved
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends)
  saved=$(mktemp)
  as_root apt-get update --quiet --quiet >/dev/null
  as_root "${install[@]}" postgresql-common >/dev/null
  cp "$settings" "$saved"
  restore_settings() {
    as_root cp "$saved" "$settings"
    rm -f "$saved"
  }
  trap restore_settings EXIT
  echo 'create_main_cluster = false' | as_root tee -a "$settings" >/dev/null
  as_root "${install[@]}" postgresql >/dev/null
)
