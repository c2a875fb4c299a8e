FROM rust:1.95-slim-bookworm AS build
WORKDIR /segno

# The dependencies alone, under an empty program: this layer is built again only when they change.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --features full \
    # What is left of the empty program would be newer than the files below, and cargo would take it for theirs.
    && cargo clean --release --package segno \
    && rm -r src

COPY migrations migrations
COPY clients/js/segno.js clients/js/
COPY src src
RUN cargo build --release --locked --features full --bin segno


FROM debian:bookworm-slim

# Without them no TLS client is made, not even for a plain http:// hub.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /segno/target/release/segno /usr/local/bin/

# A number, so that Kubernetes can see that it is not root. A named volume takes over the owner of `/data`; a folder of the
# host that is mounted there must belong to this number.
RUN install -d -o 10001 -g 10001 /data
USER 10001:10001
VOLUME /data
# Writable also when the rest is not: SQLite's temporary files go here then.
WORKDIR /data

# `segno ready` asks 127.0.0.1:8000; with another port here, set SEGNO_URL too. `docker stop` kills after 10 s.
# Within a container every address is open; what is published of its port decides who reaches the hub. SEGNO_ACCESS says who may do
# what, and wins.
ENV SEGNO_LISTEN=0.0.0.0:8000 \
    SEGNO_OPEN=true \
    SEGNO_DB=/data/segno.db \
    SEGNO_DRAIN_TIMEOUT=5s
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=1m --retries=3 CMD ["segno", "ready"]
ENTRYPOINT ["segno"]
