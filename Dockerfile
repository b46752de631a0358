# Two images: worker (the default; it has the command line, too) and demo, with consumers to try it on. Both run as
# nobody in particular (uid 65532), without a shell of use, and write only below /var/lib/keyturn.
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN GOWORK=off go mod download
COPY . .
ARG BUILD=
ENV CGO_ENABLED=0
RUN GOWORK=off go build -trimpath -ldflags "-s -w -X github.com/keyturn/keyturn/internal/version.Build=${BUILD}" -o /out/keyturn-worker ./worker \
 && GOWORK=off go build -trimpath -ldflags "-s -w -X github.com/keyturn/keyturn/internal/version.Build=${BUILD}" -o /out/keyturn ./starter
RUN mkdir -m 0700 /state

FROM build AS build-demo
RUN go build -trimpath -ldflags "-s -w" -o /out/ ./sandbox

FROM gcr.io/distroless/static-debian12:debug-nonroot AS demo
COPY --from=build --chown=65532:65532 /state /var/lib/keyturn
COPY --from=build-demo /out/sandbox /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/sandbox"]

FROM gcr.io/distroless/static-debian12:nonroot AS worker
COPY --from=build --chown=65532:65532 /state /var/lib/keyturn
COPY --from=build /out/keyturn-worker /out/keyturn /usr/local/bin/
WORKDIR /var/lib/keyturn
ENTRYPOINT ["/usr/local/bin/keyturn-worker"]
