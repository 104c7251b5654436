# One small image per service: docker build --target broker|init|gateway|dispatcher|agent .
#
# BUILDER is an image with a Rust toolchain, or one that already has the binaries in /out (a machine without access to crates builds them
# outside and brings them along; the compose test does).
ARG BUILDER=rust:1.95-bookworm
ARG NATS=nats:2.15.1

FROM ${NATS} AS nats

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN [ -d /out ] || { cargo build --release --locked --bins && mkdir /out \
    && for name in muster muster-gateway muster-dispatcher muster-agent; do cp "target/release/$name" /out/; done; }

FROM debian:bookworm-slim AS base
RUN [ -e /etc/ssl/certs/ca-certificates.crt ] || { apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; }
# Volumes take the owner of the folder they are first mounted over.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin muster \
    && for dir in /deploy /deploy/broker /deploy/gateway /deploy/dispatcher /deploy/agent /data /state; do mkdir -m 0700 "$dir" && chown muster:muster "$dir"; done
USER muster
WORKDIR /home/muster

FROM base AS broker
COPY --from=nats /nats-server /usr/local/bin/
ENTRYPOINT ["nats-server"]

FROM base AS init
COPY --from=build /out/muster /usr/local/bin/
ENTRYPOINT ["muster"]

FROM base AS gateway
COPY --from=build /out/muster-gateway /usr/local/bin/
ENTRYPOINT ["muster-gateway"]

FROM base AS dispatcher
COPY --from=build /out/muster-dispatcher /usr/local/bin/
ENTRYPOINT ["muster-dispatcher"]

FROM base AS agent
COPY --from=build /out/muster-agent /usr/local/bin/
ENTRYPOINT ["muster-agent"]
