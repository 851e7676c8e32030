# Runs a private PostgreSQL for as long as standard input stays open, then removes every trace of it. The test process
# holds the other end: however it ends, also by SIGKILL, the pipe closes. The first line of standard input is the password.
# usage: sh -c "$(cat supervisor.sh)" supervisor BIN_DIR PORT OPTION…; the options go to the server as they are. Prints a
# line when the server accepts connections.
set -eu
trap '' HUP INT TERM
bin=$1
port=$2
shift 2
read -r password
dir=$(mktemp -d "${TMPDIR:-/tmp}/rowlock-pg.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf '%s\n' "$password" >password

# PostgreSQL refuses to run as root.
as=
if [ "$(id -u)" = 0 ]; then
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$dir" password
    if command -v setpriv >/dev/null; then
        as="setpriv --reuid=$user --regid=$(id -g "$user") --init-groups"
    else
        as="runuser -u $user --"
    fi
fi

fail() {
    cat log >&2
    exit 1
}

# Trust on the socket, whose folder is ours alone; a password on TCP, which every user of the machine can reach.
init() {
    $as "$bin/initdb" -D data -U postgres -E UTF8 --locale="$1" --no-sync \
        --auth-local=trust --auth-host=password --pwfile=password >log 2>&1
}
init C.UTF-8 || { rm -rf data && init C; } || fail

$as "$bin/postgres" -D data -k "$dir" -p "$port" -c listen_addresses=127.0.0.1 -c logging_collector=off "$@" </dev/null >>log 2>&1 &
server=$!
until "$bin/pg_isready" -q -U postgres -h "$dir" -p "$port"; do
    kill -0 "$server" 2>/dev/null || fail
    sleep 0.05
done

echo ready
exec >/dev/null 2>&1
cat >/dev/null || true
# At once and without a checkpoint: nothing of it is kept.
kill -QUIT "$(head -n 1 data/postmaster.pid)"
wait "$server" || true
