#!/bin/sh
# Replace the stack's database and store by those of a backup: docker/restore.sh FOLDER
# The stack is down meanwhile. Needs the .env of the backup's stack, or at least its FERNET_KEY. COMPOSE_FILE and
# COMPOSE_PROJECT_NAME, from .env or the environment, select the stack, as for docker compose.
set -eu
[ -n "${1-}" ] && [ $# -eq 1 ] || { echo "Usage: make restore FROM=folder, or $0 FOLDER" >&2; exit 64; }
for file in SHA256SUMS store/store.json; do
  [ -f "$1/$file" ] || { echo "$1 is not a complete backup: it has no $file. Nothing was changed." >&2; exit 66; }
done
folder=$(cd "$1" && pwd)
# Check first: a damaged or incomplete backup must not replace anything.
(cd "$folder" && sha256sum --quiet --check SHA256SUMS) || { echo "$folder is damaged: nothing was changed." >&2; exit 65; }
services=$(docker compose config --services)
sql() { docker compose exec -T postgres "$@"; }

docker compose up -d --wait postgres redis
if echo "$services" | grep -qx store; then docker compose up -d --wait store; fi
# Restore next to the current database, which stays if the dump cannot be read or the disk is too small.
trap 'sql dropdb -U airflow --if-exists restored || true; echo "Nothing was changed. See the error above." >&2' EXIT
sql dropdb -U airflow --if-exists restored
sql createdb -U airflow restored
sql pg_restore -U airflow -d restored --exit-on-error --single-transaction < "$folder/database.dump"

trap 'echo "The restore failed and the stack is down: fix the error above and run it again." >&2' EXIT
docker compose stop $(echo "$services" | grep -E '^(api-server|scheduler|dag-processor|triggerer|worker.*)$')
sql dropdb -U airflow --if-exists --force airflow
sql psql -U airflow -d postgres -qc 'ALTER DATABASE restored RENAME TO airflow'
# Creates missing buckets, and upgrades the schema of an older backup.
docker compose run --rm -T init
# Discard the queued messages: they refer to tasks of the replaced database.
docker compose exec -T redis sh -c 'REDISCLI_AUTH=$REDIS_PASSWORD redis-cli flushall' > /dev/null
# Status 65: files that were damaged when the backup was made are reported and missing.
status=0
docker compose run --rm --no-deps -T --user "$(id -u):0" --env HOME=/tmp --volume "$folder/store:/backup:ro" worker \
  sh -c 'carclf store copy --overwrite --store /backup --to "$CARCLF_STORE"' || status=$?
[ $status -eq 0 ] || [ $status -eq 65 ] || exit $status
docker compose up -d --wait
trap - EXIT
echo "$folder is restored. A task that was running at the time of the backup is retried and resumes from its checkpoint."
exit $status
