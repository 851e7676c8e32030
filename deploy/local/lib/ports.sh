# shellcheck shell=bash
# Which port is whose. Everything lies in one block of 100 ports from ROWLOCK_LOCAL_PORT_BASE (50050) on, with B the base:
#   B+1 identity gRPC    B+2… booking replicas, gRPC    B+51 identity HTTP    B+52… booking replicas, HTTP    B+99 PostgreSQL
# Only by default are the HTTP ports those that the services have by default: 9051, 9052…
# Needs output.sh.

readonly REPLICAS_MAXIMUM=40

# Sets GRPC_BASE, HTTP_BASE and POSTGRES_PORT.
choose_ports() {
  local base=${ROWLOCK_LOCAL_PORT_BASE:-50050}
  if ! [[ $base =~ ^[0-9]{1,5}$ ]] || ((10#$base < 1024 || 10#$base > 65400)); then
    fail "ROWLOCK_LOCAL_PORT_BASE must be a number from 1024 to 65400, not '$base'"
  fi
  GRPC_BASE=$((10#$base))
  HTTP_BASE=$((GRPC_BASE + 50))
  if ((GRPC_BASE == 50050)); then HTTP_BASE=9050; fi
  POSTGRES_PORT=$((GRPC_BASE + 99))
}

# Whether somebody listens on a port. We look rather than knock, where the system lets us: who connects to a port that
# nobody listens on may be given that very port to connect from, be connected to himself, and so keep its owner from it.
port_listens() {
  if [[ -r /proc/net/tcp ]]; then
    grep -qsE "^ *[0-9]+: [0-9A-F]+:$(printf %04X "$1") [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6
  else
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
  fi
}

# Prints who listens on a port, where the system tells us: " by nginx (pid 123)".
port_owner() {
  local line=''
  if command -v ss >/dev/null; then
    line=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1)
  elif command -v lsof >/dev/null; then
    line=$(lsof -nP -iTCP:"$1" -sTCP:LISTEN 2>/dev/null | awk 'NR == 2 { print $1 " (pid " $2 ")" }')
  fi
  printf '%s' "${line:+ by $line}"
}

# require_free_port PORT PURPOSE
require_free_port() {
  if port_listens "$1"; then
    fail "port $1 ($2) is taken$(port_owner "$1"): set ROWLOCK_LOCAL_PORT_BASE to the start of 100 free ports, e.g. ROWLOCK_LOCAL_PORT_BASE=20000"
  fi
}
