# Stand-ins from Debian packages for machines without a container registry. For tests only: never publish them.
FROM debian:bookworm-slim AS postgres
RUN apt-get update && apt-get install -y -q --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/* \
 && rm -rf /var/lib/postgresql/15 && install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data \
 && install -d -o postgres -g postgres -m 3777 /var/run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
COPY postgres.sh /usr/local/bin/docker-entrypoint.sh
USER postgres
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["bash", "/usr/local/bin/docker-entrypoint.sh"]

FROM debian:bookworm-slim AS redis
RUN apt-get update && apt-get install -y -q --no-install-recommends redis-server redis-tools && rm -rf /var/lib/apt/lists/* \
 && install -d -o redis -g redis -m 0700 /data
USER redis
WORKDIR /data
VOLUME /data

FROM python:3.12-slim-bookworm AS store
RUN apt-get update && apt-get install -y -q --no-install-recommends curl && rm -rf /var/lib/apt/lists/*
# pip rejects constraints with hashes for a package without a pin.
RUN --mount=type=bind,from=pins,source=dev.txt,target=/tmp/dev.txt --mount=type=cache,target=/var/cache/pip \
    sed -e '/--hash=/d' -e 's/ \\$//' /tmp/dev.txt > /tmp/constraints.txt \
 && PIP_CACHE_DIR=/var/cache/pip python -m pip install -q -c /tmp/constraints.txt "moto[server]" && install -d -o 1000 -g 1000 /data
COPY moto_s3_server.py /moto_s3_server.py
USER 1000
VOLUME /data
ENTRYPOINT ["python", "/moto_s3_server.py"]
