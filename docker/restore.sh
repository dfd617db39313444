#!/bin/sh
# Put a backup's database and store in the place of the stack's own: docker/restore.sh FOLDER
# Nothing runs meanwhile. Needs the .env that the backup was made with, or at least its FERNET_KEY. COMPOSE_FILE and
# COMPOSE_PROJECT_NAME, in .env or here, name the stack, as for docker compose.
set -eu
[ -n "${1-}" ] && [ $# -eq 1 ] || { echo "Usage: make restore FROM=folder, or $0 FOLDER" >&2; exit 64; }
[ -f "$1/SHA256SUMS" ] || { echo "$1 is no whole backup: it has no SHA256SUMS. Nothing was changed." >&2; exit 66; }
folder=$(cd "$1" && pwd)
# Before anything is touched: a backup that is damaged or not whole replaces nothing.
(cd "$folder" && sha256sum --quiet --check SHA256SUMS) || { echo "$folder is damaged: nothing was changed." >&2; exit 65; }
services=$(docker compose config --services)
sql() { docker compose exec -T postgres "$@"; }

docker compose up -d --wait postgres redis
if echo "$services" | grep -qx store; then docker compose up -d --wait store; fi
# Beside the database that is there, which stays where the dump cannot be read or the disk is too small.
trap 'sql dropdb -U airflow --if-exists restored || true; echo "Nothing was changed: the reason is above." >&2' EXIT
sql dropdb -U airflow --if-exists restored
sql createdb -U airflow restored
sql pg_restore -U airflow -d restored --exit-on-error --single-transaction < "$folder/database.dump"

trap 'echo "The restore broke off, and the stack stands still: mend what is said above, and run it again." >&2' EXIT
docker compose stop $(echo "$services" | grep -E '^(api-server|scheduler|dag-processor|triggerer|worker.*)$')
sql dropdb -U airflow --if-exists --force airflow
sql psql -U airflow -d postgres -qc 'ALTER DATABASE restored RENAME TO airflow'
# Makes the bucket where it is not there, and brings an older backup's schema up to this version.
docker compose run --rm -T init
# Messages of before the backup's return name tasks that the database does not know as they were.
docker compose exec -T redis sh -c 'REDISCLI_AUTH=$REDIS_PASSWORD redis-cli flushall' > /dev/null
# 65: files that were damaged already when the backup was made are named, and not there.
status=0
docker compose run --rm --no-deps -T --user "$(id -u):0" --env HOME=/tmp --volume "$folder/store:/backup:ro" worker \
  sh -c 'carclf store copy --overwrite --store /backup --to "$CARCLF_STORE"' || status=$?
[ $status -eq 0 ] || [ $status -eq 65 ] || exit $status
docker compose up -d --wait
trap - EXIT
echo "$folder is restored. A task that ran at the backup's time is retried, and goes on from its checkpoint."
exit $status
