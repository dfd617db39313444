#!/bin/bash
# The part of the official PostgreSQL image's start script that docker-compose.yml needs.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s' "$POSTGRES_PASSWORD") --auth-local=trust $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  postgres --single -D "$PGDATA" postgres <<< "CREATE DATABASE $POSTGRES_DB"
fi
exec postgres -c listen_addresses='*'
