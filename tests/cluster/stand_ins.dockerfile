# Images of others, made from this machine's packages: what docker/Dockerfile and docker/compose.yaml build on. `machine` is
# the system of this machine (Debian's packages) without its home folders, temporary files and the like.

FROM machine AS python:3.11-slim-bookworm
# The number 1000 is free in this image.
RUN if name=$(id -nu 1000 2>/dev/null); then userdel "$name"; fi; \
    python=$(readlink -f "$PYTHON"); prefix=$(dirname "$(dirname "$python")"); rm -rf /usr/local/lib/python3.11; \
    ln -sf "$python" /usr/local/bin/python; ln -sf "$python" /usr/local/bin/python3; \
    ln -s "$prefix/lib/python3.11" /usr/local/lib/python3.11
COPY borrow.py /usr/local/bin/borrow.py

FROM machine AS caddy
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]

FROM machine AS postgres
ENV PGDATA=/var/lib/postgresql/data
RUN install -d -o postgres -g postgres /var/lib/postgresql/data
COPY postgres_entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM machine AS prom/prometheus
RUN install -d -o nobody -g nogroup /prometheus
WORKDIR /prometheus
USER 65534:65534
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
