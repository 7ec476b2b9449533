# PostgreSQL with nats_publish: docker build --build-arg PG_MAJOR=18 .
ARG PG_MAJOR=17

FROM postgres:${PG_MAJOR}-trixie AS build
ARG PG_MAJOR
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc libc6-dev make libnats-dev libssl-dev postgresql-server-dev-${PG_MAJOR}
COPY . /nats_publish
RUN make -C /nats_publish clean && make -C /nats_publish install DESTDIR=/installed

FROM postgres:${PG_MAJOR}-trixie
RUN apt-get update && \
    apt-get install -y --no-install-recommends libnats3.10 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /installed /
CMD ["postgres", "-c", "shared_preload_libraries=nats_publish"]
