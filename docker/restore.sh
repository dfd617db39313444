#!/bin/sh
# Put a backup's database and store in the place of the stack's own: docker/restore.sh FOLDER
# Nothing runs meanwhile. Needs the .env that the backup was made with, or at least its FERNET_KEY. COMPOSE_FILE and
# COMPOSE_PROJECT_NAME name the stack, as for docker compose.
set -eu
[ $# -eq 1 ] || { echo "Usage: $0 FOLDER" >&2; exit 64; }
folder=$(cd "$1" && pwd)
# Before anything is touched: a backup that is damaged or not whole replaces nothing.
(cd "$folder" && sha256sum --quiet --check SHA256SUMS) || { echo "$folder is damaged: nothing was changed." >&2; exit 65; }

docker compose stop api-server scheduler dag-processor triggerer worker
docker compose up -d --wait postgres redis
if docker compose config --services | grep -qx store; then docker compose up -d --wait store; fi
docker compose exec -T postgres dropdb -U airflow --if-exists --force airflow
docker compose exec -T postgres createdb -U airflow airflow
docker compose exec -T postgres pg_restore -U airflow -d airflow --exit-on-error --single-transaction \
  < "$folder/database.dump"
# Makes the bucket where it is not there, and brings an older backup's schema up to this version.
docker compose run --rm -T init
# Messages of before the backup's return name tasks that the database does not know as they were.
docker compose exec -T redis sh -c 'REDISCLI_AUTH=$REDIS_PASSWORD redis-cli flushall' > /dev/null
docker compose run --rm --no-deps -T --user "$(id -u):0" --env HOME=/tmp --volume "$folder/store:/backup:ro" worker \
  sh -c 'carclf store copy --anew --store /backup --to "$CARCLF_STORE"'
docker compose up -d --wait
echo "$folder is restored. A task that ran at the backup's time is retried, and goes on from its checkpoint."
