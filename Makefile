# What a contributor needs, in short. CI (.ci/run) calls the same targets.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build test race lint vuln fuzz sandbox

build:
	go build ./... ./sandbox/...

test:
	go test -timeout 30m ./... ./sandbox/...

# The tests of all packages but the black-box ones, with the race detector.
race:
	go test -race -timeout 20m $$(go list ./... | grep -v /tests)

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	go vet ./... ./sandbox/...
	GOFLAGS= go run $(GOLANGCI_LINT) run ./...
	cd sandbox && GOFLAGS= go run $(GOLANGCI_LINT) run --config ../.golangci.yml ./...
	GOFLAGS= go run $(WORKFLOWCHECK) -config .workflowcheck.yaml ./workflows/...

# Needs the vulnerability database of vuln.go.dev.
vuln:
	go run $(GOVULNCHECK) ./...
	cd sandbox && go run $(GOVULNCHECK) ./...

# Each fuzz target for a while: make fuzz FUZZTIME=5m
FUZZTIME ?= 20s
fuzz:
	@for package in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
	  done; \
	done

sandbox:
	go run ./sandbox
