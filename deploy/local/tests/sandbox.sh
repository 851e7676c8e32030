# shellcheck shell=bash
# A place of its own for a test of up and down: a folder, ports that nobody uses, and copies of the services that no other
# process runs. A developer's running system is not touched. Needs output.sh, processes.sh, ports.sh and postgres.sh.

# open_sandbox SERVICES: from a folder of built services. Sets SANDBOX and what `up` reads.
open_sandbox() {
  SANDBOX=$(mktemp -d /tmp/rowlock-test.XXXXXX)
  chmod 755 "$SANDBOX"
  mkdir "$SANDBOX/bin"
  cp "$1/identity-service" "$1/booking-service" "$SANDBOX/bin"
  export ROWLOCK_LOCAL_BIN_DIR=$SANDBOX/bin ROWLOCK_LOCAL_STATE_DIR=$SANDBOX/state
  ROWLOCK_LOCAL_PORT_BASE=$(free_port_base)
  export ROWLOCK_LOCAL_PORT_BASE
  unset ROWLOCK_LOCAL_DATABASE_URL
}

close_sandbox() {
  [[ -n ${SANDBOX:-} ]] || return 0
  if [[ -d $ROWLOCK_LOCAL_STATE_DIR ]]; then "$local_dir/down" --purge >/dev/null; fi
  rm -rf "$SANDBOX"
}

# Prints the first base from 20000 on whose ports are free, as many as two replicas need.
free_port_base() {
  local base offset
  for ((base = 20000; base < 30000; base += 100)); do
    for offset in 1 2 3 51 52 53 99; do
      if port_listens $((base + offset)); then continue 2; fi
    done
    printf '%s\n' "$base"
    return
  done
  fail "finds no 100 free ports from 20000 to 30000"
}

# Prints the command lines of processes that have the text in them.
processes_with() {
  local command pid
  if [[ -d /proc/self ]]; then
    for pid in /proc/[0-9]*; do
      command=$(process_command "${pid##*/}") || continue
      if [[ $command == *"$1"* ]]; then printf '%s\n' "$command"; fi
    done
  else
    ps -axo args= | grep -F -- "$1" | grep -vF 'grep -F' || true
  fi
}

# Fails where a process of the sandbox is still there.
expect_nothing_left() {
  local left
  left=$(processes_with "$SANDBOX")
  [[ -z $left ]] || fail "still running: $left"
}

# expect TEXT PART: fails where the part is not in the text.
expect() { [[ $1 == *"$2"* ]] || fail "expected '$2' in: $1"; }

# Fails where a log of the sandbox's services holds a token, a secret, a password of a URL, or anybody's e-mail address.
expect_logs_without_secrets() {
  local found logs=("$ROWLOCK_LOCAL_STATE_DIR"/logs/identity*.log "$ROWLOCK_LOCAL_STATE_DIR"/logs/booking-*.log)
  # awk fails where it cannot read one of them.
  found=$(awk '/eyJ|[Bb]earer |rowlock_(refresh|reset|secret)_|:\/\/[^ :@\/]+:[^*@ ]+@|[A-Za-z0-9._-]+@[A-Za-z0-9-]+\.[a-z]+/' "${logs[@]}") || fail "a log cannot be read"
  [[ -z $found ]] || fail "a log holds what it must not: $found"
}
