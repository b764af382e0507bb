#!/bin/bash
# What the entry point of PostgreSQL's image does for docker/compose.yaml: it makes the databases of an empty volume, by a
# server that listens on a socket only, and then runs the command as the user postgres.
set -euo pipefail
PATH=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1):$PATH
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres "$PGDATA" /var/run/postgresql
    chmod 0700 "$PGDATA"
    exec gosu postgres "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --pgdata="$PGDATA" --username=postgres --pwfile=<(echo "$POSTGRES_PASSWORD") --auth-local=trust \
        --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses=''" --wait start
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql --no-psqlrc --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1 --file="$file"
    done
    pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi
exec "$@"
