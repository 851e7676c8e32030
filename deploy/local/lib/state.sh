# shellcheck shell=bash
# The folder of a local system, and what runs from it. Needs output.sh, processes.sh and postgres.sh.
#
#   local.env   addresses, accounts and databases, for people and scripts to source
#   keys/       what identity-service signs with, and the credentials of booking's service account
#   logs/       one file per process
#   run/        one file per process that is (or was) running
#   postgres/   the private cluster: data, password, log; root may find a link to a folder under /var/lib here
#   databases   which databases were made on a server that is not ours

state=${ROWLOCK_LOCAL_STATE_DIR:-$local_dir/.state}
case $state in /*) ;; *) state=$PWD/$state ;; esac

# Makes the folder: secrets are for its owner, but the account that PostgreSQL runs as may pass through.
open_state() {
  mkdir -p "$state"
  chmod 711 "$state"
  (umask 077 && mkdir -p "$state/keys" "$state/logs" "$state/run")
}

# Prints the private cluster's folder by its one true name; fails where there is none.
cluster_folder() { [[ -d $state/postgres ]] && (cd -P "$state/postgres" && pwd); }

# Makes the private cluster's folder. Where root keeps the repository to itself, it cannot be in there.
make_cluster_folder() {
  local folder=$state/postgres
  if ((EUID == 0)) && ! as_postgres test -x "$state"; then
    folder=$(mktemp -d /var/lib/rowlock-local.XXXXXX)
    ln -s "$folder" "$state/postgres"
  else
    (umask 077 && mkdir "$folder")
  fi
  if ((EUID == 0)); then chown "$(postgres_account)" "$folder"; fi
}

# Prints the name of a remembered process that is gone; fails while all are alive.
dead_process() {
  local file
  for file in "$state"/run/*; do
    [[ -f $file ]] || continue
    recorded_process "$file" >/dev/null || {
      printf '%s\n' "${file##*/}"
      return
    }
  done
  return 1
}

# Whether a whole system runs here that was left to itself by `up --detach`.
runs_detached() { [[ -f $state/run/identity ]] && ! dead_process >/dev/null; }

# Stops what runs from here, those first who need the others.
stop_system() {
  local folder
  stop_processes 30 "$state"/run/booking-*
  stop_processes 30 "$state/run/identity"
  if folder=$(cluster_folder); then cluster_stop "$folder/data" INT; fi
  rm -f "$state/run/postgres"
}

# Removes the folder's contents: only what is known to belong in it.
remove_state() {
  local folder
  if folder=$(cluster_folder); then rm -rf "$folder"; fi
  (cd "$state" && rm -rf postgres keys logs run databases local.env)
  rmdir "$state" 2>/dev/null || say "$state holds other files too: they stay"
}
