# Runs a private PostgreSQL for as long as standard input stays open, then removes every trace of it. The test process
# holds the other end: however it ends, also by SIGKILL, the pipe closes. The first line of standard input is the password,
# each further one a command: start, kill, promote. Prints "ready", or what went wrong, when the server accepts
# connections and after each command.
# usage: sh -c "$(cat supervisor.sh)" supervisor BIN_DIR PORT PRIMARY_PORT SIZE SETTING…
# With PRIMARY_PORT it is a standby of that server; with SIZE its data lie on a file system of that size in memory (as
# root only). Either may be empty.
set -eu
trap '' HUP INT TERM PIPE
bin=$1
port=$2
primary=$3
size=$4
shift 4
read -r password
dir=$(mktemp -d "${TMPDIR:-/tmp}/rowlock-pg.XXXXXX")
leave() {
    if [ "$size" ]; then umount data || true; fi
    rm -rf "$dir"
}
trap leave EXIT
cd "$dir"
printf '%s\n' "$password" >password

# PostgreSQL refuses to run as root.
as=
user=
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

if [ "$size" ]; then
    mkdir data
    mount -t tmpfs -o "size=$size,mode=700,uid=$user" rowlock data 2>log || { size='' && fail; }
fi

# Trust on the socket, whose folder is ours alone; a password on TCP, which every user of the machine can reach.
init() {
    $as "$bin/initdb" -D data -U postgres -E UTF8 --locale="$1" --no-sync \
        --auth-local=trust --auth-host=password --pwfile=password >log 2>&1
}
if [ "$primary" ]; then
    $as env PGPASSWORD="$password" "$bin/pg_basebackup" -D data -R -X stream -c fast \
        -d "host=127.0.0.1 port=$primary user=postgres application_name=standby" >log 2>&1 || fail
else
    init C.UTF-8 || { rm -rf data/* && init C; } || fail
    # Only where it listens can be reached, whatever stands here.
    printf 'host all all samenet password\n' >>data/pg_hba.conf
fi

start() {
    $as "$bin/postgres" -D data -k "$dir" -p "$port" -c listen_addresses=127.0.0.1 -c logging_collector=off "$@" \
        </dev/null >>log 2>&1 &
    server=$!
    until "$bin/pg_isready" -q -U postgres -h "$dir" -p "$port"; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
}
# What a killed server left behind may hold its memory for a moment.
start_again() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if start "$@"; then return; fi
        sleep 0.2
    done
    return 1
}
# Nobody says goodbye, not even the processes of the sessions.
kill_all() {
    sessions=$(ps -o pid= --ppid "$server")
    kill -KILL "$server"
    for session in $sessions; do kill -KILL "$session" || true; done
    wait "$server" || true
}
start "$@" || fail
echo ready
exec 2>/dev/null

while read -r command; do
    case $command in
        start) start_again "$@" ;;
        kill) kill_all ;;
        promote) $as "$bin/pg_ctl" promote -D data -w >>log 2>&1 ;;
    esac && echo ready || { tail -n 1 log || echo failed; } || true
done
# At once and without a checkpoint: nothing of it is kept.
kill -QUIT "$(head -n 1 data/postmaster.pid)" || true
wait "$server" || true
