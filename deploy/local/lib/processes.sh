# shellcheck shell=bash
# Processes that outlive the script: started in a group of their own, remembered in a file, stopped only while they are
# provably the ones that were started. Needs output.sh.

# Prints what tells a live process from a later one that got its number; fails where there is none.
process_mark() {
  local line fields
  if [[ -d /proc/self ]]; then
    { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -r -a fields <<<"${line##*) }"
    [[ ${fields[0]} != [ZX] ]] && printf '%s %s\n' "$(</proc/sys/kernel/random/boot_id)" "${fields[19]}"
  else
    ps -o lstart= -p "$1"
  fi
}

# Prints the command line of a live process.
process_command() {
  if [[ -d /proc/self ]]; then
    tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline"
  else
    ps -o args= -p "$1"
  fi
}

# record_process FILE PID
record_process() { printf '%s\n%s\n' "$2" "$(process_mark "$2")" >"$1"; }

# Prints the number of the process that the file remembers; fails where it is gone.
recorded_process() {
  local pid mark
  [[ -f $1 ]] && { read -r pid && IFS= read -r mark; } <"$1" && [[ -n $mark && $mark == "$(process_mark "$pid")" ]] &&
    printf '%s\n' "$pid"
}

# launch FILE LOG COMMAND…: starts it detached from the terminal and remembers it.
launch() {
  local file=$1 log=$2
  shift 2
  # Job control gives it a process group: a Ctrl-C at the terminal is for the script alone, which stops things in order.
  set -m
  NO_COLOR=1 nohup "$@" </dev/null >"$log" 2>&1 &
  set +m
  record_process "$file" "$!"
  disown "$!"
}

# stop_processes SECONDS FILE…: asks all of them to end, waits, and kills what is left after that time. A process may end
# between a look at it and the signal.
stop_processes() {
  local grace=$1 file pid end=$((SECONDS + $1))
  shift
  for file; do
    if pid=$(recorded_process "$file"); then kill -TERM "$pid" || true; fi
  done
  for file; do
    while pid=$(recorded_process "$file"); do
      if ((SECONDS > end + 10)); then fail "process $pid ($(process_command "$pid")) does not end"; fi
      if ((SECONDS >= end)); then
        say "process $pid has not ended in $grace seconds: killing it"
        kill -KILL "$pid" || true
      fi
      sleep 0.1
    done
    rm -f "$file"
  done
}

# interruptible COMMAND…: runs it in a group of its own, so that a signal to the script can end it and all that it started.
interruptible() {
  set -m
  "$@" </dev/null &
  set +m
  INTERRUPTIBLE=$!
  local status=0
  wait "$INTERRUPTIBLE" || status=$?
  INTERRUPTIBLE=''
  return "$status"
}

# Ends what `interruptible` is running, if anything.
interrupt() {
  [[ -n ${INTERRUPTIBLE:-} ]] || return 0
  kill -TERM -- "-$INTERRUPTIBLE" 2>/dev/null || true
  wait "$INTERRUPTIBLE" 2>/dev/null || true
}
