# One image, four commands: couchestor-scorer, couchestor-planner, couchestor-migrator, and couchestor, their client.
#
#   docker build -t couchestor:0.1.0 .
#
# Every package is pinned by hash in the lock files; nothing else is fetched.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/couchestor && python -m venv /opt/build

# What the services need. A layer of its own: it changes with the lock, not with the code.
COPY requirements.lock ./
RUN /opt/couchestor/bin/pip install --require-hashes --only-binary :all: -r requirements.lock

# What makes the wheel, and no more of the lock than that.
COPY requirements-dev.lock ./
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements-dev.lock > requirements-build.lock \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY . ./
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && /opt/couchestor/bin/pip install --no-deps --no-index /wheels/couchestor-*.whl \
    && /opt/couchestor/bin/pip uninstall --yes --quiet pip setuptools

FROM python:3.11-slim
ENV PATH=/opt/couchestor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/couchestor /opt/couchestor
# Nobody in particular, by number, so that Kubernetes can tell that it is not root.
USER 65532:65532
WORKDIR /
CMD ["couchestor", "--help"]
