# shellcheck shell=bash
# The server that the services' databases are on: a private cluster, or the one that ROWLOCK_LOCAL_DATABASE_URL names.
# Needs output.sh, postgres.sh, postgres_install.sh, ports.sh and state.sh.

random_password() { head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# database_url SERVER NAME: the server's URL with another database.
database_url() {
  local scheme=${1%%://*} rest=${1#*://} options=''
  if [[ $rest == *\?* ]]; then options=\?${rest#*\?}; fi
  rest=${rest%%\?*}
  printf '%s://%s/%s%s\n' "$scheme" "${rest%%/*}" "$2" "$options"
}

# Finds PostgreSQL, or installs it where no server is given. Sets POSTGRES_BIN.
require_postgres() {
  POSTGRES_BIN=$(find_postgres) && return
  if [[ -n ${ROWLOCK_LOCAL_DATABASE_URL:-} ]] && POSTGRES_BIN=$(command -v psql); then
    POSTGRES_BIN=${POSTGRES_BIN%/*}
    return
  fi
  install_postgres
  POSTGRES_BIN=$(find_postgres) || fail "the system's package manager gave no PostgreSQL $POSTGRES_MINIMUM or newer: set ROWLOCK_LOCAL_DATABASE_URL to a server that you have"
}

# Starts the private cluster, made on the first time. It is durable: what was committed is there after a crash.
start_private_server() {
  local folder pid complaint end=$((SECONDS + 10))
  [[ -e $state/postgres ]] || make_cluster_folder
  folder=$(cluster_folder) || fail "$state/postgres leads nowhere: deploy/local/down --purge clears it"
  if [[ ! -f $folder/created ]]; then
    rm -rf "$folder/data"
    random_password | (umask 077 && as_postgres tee "$folder/password" >/dev/null)
    cluster_create "$POSTGRES_BIN" "$folder/data" scram-sha-256 --pwfile="$folder/password" <<-SETTINGS
	listen_addresses = '127.0.0.1'
	unix_socket_directories = ''
	max_connections = 400
	SETTINGS
    as_postgres touch "$folder/created"
  fi
  ln -sf "$folder/log" "$state/logs/postgres.log"
  # What a killed server leaves, itself included, may take a moment to go.
  until complaint=$(cluster_start "$POSTGRES_BIN" "$folder/data" "$folder/log" "-p $POSTGRES_PORT" 2>&1); do
    if ((SECONDS >= end)); then
      printf '%s\n' "$complaint" >&2
      tail -n 20 "$folder/log" >&2
      fail "PostgreSQL does not start"
    fi
    sleep 0.5
  done
  pid=$(cluster_process "$folder/data") && record_process "$state/run/postgres" "$pid"
  SERVER_URL=postgres://rowlock:$(<"$folder/password")@127.0.0.1:$POSTGRES_PORT/postgres
}

# Makes sure that there is a server with both databases. Sets SERVER_URL.
open_databases() {
  local name
  if [[ -n ${ROWLOCK_LOCAL_DATABASE_URL:-} ]]; then
    SERVER_URL=$ROWLOCK_LOCAL_DATABASE_URL
  else
    start_private_server
  fi
  for name in rowlock_identity rowlock_booking; do
    if [[ $(ask_server "SELECT 1 FROM pg_database WHERE datname = '$name'") != 1 ]]; then
      ask_server "CREATE DATABASE $name"
      if [[ -n ${ROWLOCK_LOCAL_DATABASE_URL:-} ]]; then (umask 077 && printf '%s %s\n' "$name" "$SERVER_URL" >>"$state/databases"); fi
    fi
  done
}

# Runs one statement on the server and prints the bare answer.
ask_server() {
  "$POSTGRES_BIN/psql" --no-psqlrc --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1 --dbname="$SERVER_URL" --command="$1"
}

# Drops the databases that were made on a server that is not ours, and no other.
drop_made_databases() {
  local name
  [[ -f $state/databases ]] || return 0
  require_postgres
  while read -r name SERVER_URL; do
    ask_server "DROP DATABASE IF EXISTS $name WITH (FORCE)"
  done <"$state/databases"
}
