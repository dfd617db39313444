#!/bin/sh
# Copy the database and the store of the running stack into a folder: docker/backup.sh FOLDER
# Runs may continue meanwhile. Into the same folder again, it copies only new files of the store. COMPOSE_FILE and
# COMPOSE_PROJECT_NAME, from .env or the environment, select the stack, as for docker compose.
set -eu
[ -n "${1-}" ] && [ $# -eq 1 ] || { echo "Usage: make backup TO=folder, or $0 FOLDER" >&2; exit 64; }
docker compose config -q
umask 077
mkdir -p "$1/store"
folder=$(cd "$1" && pwd)

# The database first: everything it refers to is in the store when the store is copied.
trap 'rm -f "$folder/database.dump.new"' EXIT
docker compose exec -T postgres pg_dump -U airflow -Fc airflow > "$folder/database.dump.new"
docker compose exec -T postgres pg_restore --list < "$folder/database.dump.new" > /dev/null
mv "$folder/database.dump.new" "$folder/database.dump"

# Status 65: damaged files were reported and left out. The rest is a valid backup if the copy has ended: it writes the
# store's marker last.
status=0
rm -f "$folder/store/store.json"
docker compose run --rm --no-deps -T --user "$(id -u):0" --env HOME=/tmp --volume "$folder/store:/backup" worker \
  carclf store copy --to /backup || status=$?
[ $status -eq 0 ] || [ $status -eq 65 ] || exit $status
[ -f "$folder/store/store.json" ] || { echo "$folder is not a complete backup. See the error above." >&2; exit $status; }
cd "$folder"
find database.dump store -type f ! -name '~*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > SHA256SUMS.new
mv SHA256SUMS.new SHA256SUMS
echo "$folder: $(wc -l < SHA256SUMS) files with their SHA-256 in SHA256SUMS. Keep .env elsewhere: a restore needs its FERNET_KEY."
exit $status
