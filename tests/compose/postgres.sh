#!/bin/bash
# What PostgreSQL's own image does at its start, as far as docker-compose.yml asks for it.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s' "$POSTGRES_PASSWORD") --auth-local=trust $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  postgres --single -D "$PGDATA" postgres <<< "CREATE DATABASE $POSTGRES_DB"
fi
exec postgres -c listen_addresses='*'
