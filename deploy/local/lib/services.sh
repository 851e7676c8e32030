# shellcheck shell=bash
# The two services: built, configured, started, awaited. Needs output.sh, processes.sh, ports.sh, state.sh and databases.sh.

# Builds both services, or takes those of ROWLOCK_LOCAL_BIN_DIR. Sets SERVICE_BIN.
build_services() {
  local target=${CARGO_TARGET_DIR:-$repo/target}
  if [[ -n ${ROWLOCK_LOCAL_BIN_DIR:-} ]]; then
    SERVICE_BIN=$(cd "$ROWLOCK_LOCAL_BIN_DIR" && pwd)
    return
  fi
  command -v cargo >/dev/null || fail "needs Rust's cargo to build the services: see https://rustup.rs"
  command -v "${CC:-cc}" >/dev/null || fail "needs a C compiler to build the services: e.g. apt-get install build-essential"
  say "building identity-service and booking-service (the first time takes minutes)"
  # shellcheck disable=SC2016
  interruptible sh -c 'cd "$1" && exec cargo build --release --target-dir "$2" -p identity-service -p booking-service' sh "$repo" "$target"
  SERVICE_BIN=$(cd "$target/release" && pwd)
}

# choose_addresses REPLICAS: sets IDENTITY_ADDR, BOOKING_ADDRS (comma-separated) and the URLs of the databases.
choose_addresses() {
  local replica
  IDENTITY_DATABASE_URL=$(database_url "$SERVER_URL" rowlock_identity)
  BOOKING_DATABASE_URL=$(database_url "$SERVER_URL" rowlock_booking)
  IDENTITY_ADDR=http://127.0.0.1:$((GRPC_BASE + 1))
  BOOKING_ADDRS=''
  for ((replica = 1; replica <= $1; replica++)); do
    BOOKING_ADDRS+=${BOOKING_ADDRS:+,}http://127.0.0.1:$((GRPC_BASE + 1 + replica))
  done
}

# require_free_ports REPLICAS
require_free_ports() {
  local replica
  require_free_port $((GRPC_BASE + 1)) "identity-service, gRPC"
  require_free_port $((HTTP_BASE + 1)) "identity-service, HTTP"
  for ((replica = 1; replica <= $1; replica++)); do
    require_free_port $((GRPC_BASE + 1 + replica)) "booking-service $replica, gRPC"
    require_free_port $((HTTP_BASE + 1 + replica)) "booking-service $replica, HTTP"
  done
  if [[ -z ${ROWLOCK_LOCAL_DATABASE_URL:-} ]]; then require_free_port "$POSTGRES_PORT" PostgreSQL; fi
}

# Writes local.env. The accounts keep the passwords that they were made with.
write_local_env() (
  ROWLOCK_ADMIN_PASSWORD=$(random_password)
  ROWLOCK_ORGANIZER_PASSWORD=$(random_password)
  ROWLOCK_ATTENDEE_PASSWORD=$(random_password)
  # shellcheck source=/dev/null
  if [[ -f $state/local.env ]]; then . "$state/local.env"; fi
  umask 077
  cat >"$state/local.env.new" <<-ENV
	ROWLOCK_IDENTITY_ADDR=$IDENTITY_ADDR
	ROWLOCK_BOOKING_ADDRS=$BOOKING_ADDRS
	ROWLOCK_ADMIN_EMAIL=admin@rowlock.test
	ROWLOCK_ADMIN_PASSWORD=$ROWLOCK_ADMIN_PASSWORD
	ROWLOCK_ORGANIZER_EMAIL=organizer@rowlock.test
	ROWLOCK_ORGANIZER_PASSWORD=$ROWLOCK_ORGANIZER_PASSWORD
	ROWLOCK_ATTENDEE_EMAIL=attendee@rowlock.test
	ROWLOCK_ATTENDEE_PASSWORD=$ROWLOCK_ATTENDEE_PASSWORD
	ROWLOCK_DATABASE_URL_IDENTITY=$(printf %q "$IDENTITY_DATABASE_URL")
	ROWLOCK_DATABASE_URL_BOOKING=$(printf %q "$BOOKING_DATABASE_URL")
	ENV
  mv "$state/local.env.new" "$state/local.env"
)

# Brings both schemas up to date, and makes a signing key, the first admin and booking's service account where there is none.
prepare_services() {
  ROWLOCK_DATABASE_URL=$IDENTITY_DATABASE_URL interruptible "$SERVICE_BIN/identity-service" migrate
  ROWLOCK_DATABASE_URL=$BOOKING_DATABASE_URL interruptible "$SERVICE_BIN/booking-service" migrate
  if ! compgen -G "$state/keys/*.pem" >/dev/null; then "$SERVICE_BIN/identity-service" keys generate --dir "$state/keys"; fi
  # shellcheck source=/dev/null
  (. "$state/local.env" && export ROWLOCK_ADMIN_PASSWORD && ROWLOCK_DATABASE_URL=$IDENTITY_DATABASE_URL \
    "$SERVICE_BIN/identity-service" admin create --email "$ROWLOCK_ADMIN_EMAIL")
  # As whom booking learns of revocations. Its secret is told once.
  ROWLOCK_DATABASE_URL=$IDENTITY_DATABASE_URL "$SERVICE_BIN/identity-service" service-account create \
    --display-name booking-service --dir "$state/keys/booking-service"
}

# start_services REPLICAS: returns when all of them serve.
start_services() {
  local replica
  start_identity
  for ((replica = 1; replica <= $1; replica++)); do start_booking "$replica"; done
  await_service identity identity-service "$IDENTITY_ADDR"
  for ((replica = 1; replica <= $1; replica++)); do
    await_service "booking-$replica" booking-service "http://127.0.0.1:$((GRPC_BASE + 1 + replica))"
  done
}

start_identity() {
  ROWLOCK_DATABASE_URL=$IDENTITY_DATABASE_URL ROWLOCK_KEYS_DIR=$state/keys \
    ROWLOCK_GRPC_ADDR=127.0.0.1:$((GRPC_BASE + 1)) ROWLOCK_HTTP_ADDR=127.0.0.1:$((HTTP_BASE + 1)) \
    launch "$state/run/identity" "$state/logs/identity.log" "$SERVICE_BIN/identity-service" serve
}

# start_booking REPLICA: with the service account by which it learns of revocations.
start_booking() {
  ROWLOCK_DATABASE_URL=$BOOKING_DATABASE_URL ROWLOCK_IDENTITY_ADDR=$IDENTITY_ADDR \
    ROWLOCK_IDENTITY_CLIENT_ID_FILE=$state/keys/booking-service/client-id \
    ROWLOCK_IDENTITY_CLIENT_SECRET_FILE=$state/keys/booking-service/client-secret \
    ROWLOCK_GRPC_ADDR=127.0.0.1:$((GRPC_BASE + 1 + $1)) ROWLOCK_HTTP_ADDR=127.0.0.1:$((HTTP_BASE + 1 + $1)) \
    launch "$state/run/booking-$1" "$state/logs/booking-$1.log" "$SERVICE_BIN/booking-service" serve
}

# await_service NAME PROGRAM ADDRESS
await_service() {
  local end=$((SECONDS + 60))
  until port_listens "${3##*:}" && "$SERVICE_BIN/$2" health --addr "$3" >/dev/null 2>&1; do
    recorded_process "$state/run/$1" >/dev/null || report_death "$1"
    if ((SECONDS >= end)); then fail "$1 does not serve on $3 after 60 seconds: see $state/logs/$1.log"; fi
    sleep 0.2
  done
}

# Says that a process ended by itself, with its last words.
report_death() {
  say "the last lines of $state/logs/$1.log:" >&2
  tail -n 20 "$state/logs/$1.log" >&2
  fail "$1 has ended"
}

# Signs everybody up, makes the event and sends the rush: the services' own demonstration.
run_demo() {
  # shellcheck disable=SC2016
  interruptible "$BASH" -c 'set -a && . "$1" && shift && exec "$@"' demo "$state/local.env" \
    "$SERVICE_BIN/booking-service" demo --identity-addr "$IDENTITY_ADDR" --booking-addrs "$BOOKING_ADDRS" --state-file "$state/local.env"
}
