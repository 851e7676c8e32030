# shellcheck shell=bash
# PostgreSQL: the binaries, the account they run as, and private clusters. Needs output.sh and processes.sh.

readonly POSTGRES_MINIMUM=14

# The major version of the PostgreSQL binaries in a folder; fails where they are not complete.
postgres_version() {
  local tool version
  for tool in initdb pg_ctl postgres psql; do
    [[ -x $1/$tool ]] || return 1
  done
  version=$("$1/postgres" --version) && [[ $version =~ \)\ ([0-9]+) ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# Prints the folder of usable binaries: the one that the environment or the PATH gives, else the newest installed.
find_postgres() {
  local dir version best='' best_version=$((POSTGRES_MINIMUM - 1))
  dir=${ROWLOCK_PG_BIN:-$(command -v postgres || true)}
  if [[ -z ${ROWLOCK_PG_BIN:-} ]]; then dir=${dir%/*}; fi
  if [[ -n $dir ]] && version=$(postgres_version "$dir") && ((version >= POSTGRES_MINIMUM)); then
    printf '%s\n' "$dir"
    return
  fi
  for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql*/ \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if version=$(postgres_version "$dir") && ((version > best_version)); then
      best=$dir best_version=$version
    fi
  done
  [[ -n $best ]] && printf '%s\n' "$best"
}

# Prints the account that PostgreSQL runs as: our own, or for root, whom it refuses, an unprivileged one.
postgres_account() {
  if ((EUID != 0)); then
    id -un
  elif id -u postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# Runs a command as that account, from a folder that it can enter.
as_postgres() (
  cd /
  if ((EUID != 0)); then
    exec "$@"
  fi
  # shellcheck disable=SC2016
  exec su -s /bin/sh -c 'exec "$0" "$@"' -- "$(postgres_account)" "$@"
)

# cluster_create BIN DATA AUTH [INITDB OPTION…] with settings on standard input. The superuser is `rowlock`.
cluster_create() {
  local bin=$1 data=$2 auth=$3 locale=--no-locale
  shift 3
  # Letters beyond ASCII have a lower case only where the locale knows them.
  if [[ $(locale -a 2>/dev/null) =~ C\.(UTF-8|utf8) ]]; then locale=--locale=C.UTF-8; fi
  as_postgres "$bin/initdb" --pgdata="$data" --username=rowlock --auth="$auth" --encoding=UTF8 "$locale" "$@" </dev/null >/dev/null
  as_postgres tee -a "$data/postgresql.conf" >/dev/null
}

# cluster_start BIN DATA LOG [SERVER OPTIONS]. Returns when it answers.
cluster_start() {
  as_postgres "$1/pg_ctl" start --pgdata="$2" --log="$3" --wait --timeout=120 --silent ${4:+--options="$4"} >/dev/null
}

# Prints the number of the server that runs on a cluster's folder: that is in its command line, so no other can be meant.
cluster_process() {
  local pid
  { read -r pid <"$1/postmaster.pid"; } 2>/dev/null && [[ "$(process_command "$pid") " == *" -D $1 "* ]] && printf '%s\n' "$pid"
}

# cluster_stop DATA INT|QUIT. INT ends the sessions that are open and closes the files in order; QUIT just drops everything.
cluster_stop() {
  local pid end=$((SECONDS + 60))
  pid=$(cluster_process "$1") || return 0
  kill "-$2" "$pid" || true
  while cluster_process "$1" >/dev/null; do
    if ((SECONDS >= end)); then fail "PostgreSQL (process $pid) does not stop"; fi
    sleep 0.1
  done
}

# throwaway_cluster BIN [SERVER OPTIONS]: a cluster that lives in a folder of its own, reached by a socket in it, and
# forgets at a crash.
# Sets THROWAWAY (the folder); the caller traps EXIT with throwaway_remove.
throwaway_cluster() {
  local base=${TMPDIR:-/tmp}
  # root's TMPDIR may be closed to the account that PostgreSQL runs as.
  if ((EUID == 0)); then base=/tmp; fi
  THROWAWAY=$(mktemp -d "$base/rowlock-check.XXXXXX")
  if ((EUID == 0)); then chown "$(postgres_account)" "$THROWAWAY"; fi
  cluster_create "$1" "$THROWAWAY/data" trust --no-sync <<-SETTINGS
	listen_addresses = ''
	unix_socket_directories = '$THROWAWAY'
	fsync = off
	SETTINGS
  cluster_start "$1" "$THROWAWAY/data" "$THROWAWAY/log" "${2:-}"
}

throwaway_remove() {
  [[ -n ${THROWAWAY:-} ]] || return 0
  cluster_stop "$THROWAWAY/data" QUIT
  rm -rf "$THROWAWAY"
}
