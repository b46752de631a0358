# What a contributor needs, in short. CI (.ci/run) calls the same targets.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build test portable race lint vuln fuzz bench histories simulate chaos moments proof resets endings takeovers incidents due steady picture sandbox example

build:
	go build ./... ./sandbox/...

test:
	go test -timeout 30m ./... ./sandbox/...

# That what runs beside users' own programs builds for other systems. Not in CI: it compiles the library anew for each, for a minute.
portable:
	for system in windows darwin; do GOOS=$$system go build ./gateway ./consumer || exit 1; done

# The tests of all packages but the black-box ones, with the race detector.
race:
	go test -race -timeout 20m $$(go list ./... | grep -v /tests)

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	go vet ./... ./sandbox/...
	GOFLAGS= go run $(GOLANGCI_LINT) run ./... ./sandbox/...
	GOFLAGS= go run $(WORKFLOWCHECK) -config .workflowcheck.yaml ./workflows/...

# Needs the vulnerability database of vuln.go.dev.
vuln:
	go run $(GOVULNCHECK) ./...
	cd sandbox && go run $(GOVULNCHECK) ./...

# Each fuzz target for a while: make fuzz FUZZTIME=5m
FUZZTIME ?= 20s
fuzz:
	@for package in $$(go list ./... ./sandbox/...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
	  done; \
	done

# Measures, and writes docs/benchmarks.md.
bench:
	go test ./activities -run '^$$' -bench .
	go test ./tests -run '^$$' -bench . -benchtime 1x -timeout 60m -page "$(CURDIR)/docs/benchmarks.md"

# Keeps the histories of a release, which later ones must be able to go on with: make histories RELEASE=v1.2.0
# These are the tests that keep some: of every workflow, and of every way that a rotation may go.
KEEPERS := ^(TestLives.*|TestAScheduleRotatesAKeyWhenItIsDue|TestSweep)$$
histories:
	@test -n "$(RELEASE)" || { echo "say which: make histories RELEASE=v1.2.0"; exit 1; }
	go test ./tests -run '$(KEEPERS)' -count 1 -timeout 30m -capture "$(CURDIR)/workflows/testdata/histories/$(RELEASE)"
	go test ./workflows -run '^TestEachReleaseHasHistoriesOfEveryWorkflow$$' -count 1

# Rotations in a world of faults: make simulate SEEDS=20000, or one again with all that happened: make simulate SEED=1234
SEEDS ?= 2000
simulate:
	go test -timeout 0 ./tests/simulation -run '^TestSimulation$$' $(if $(SEED),-v -seed $(SEED),-seeds $(SEEDS))

# Real rotations that are struck at each change of the world: worker, Temporal and connections die. All of it takes one to
# two hours of the whole machine; CHAOS=ci is a sample of seven minutes, CHAOS_SEED chooses it, and ROW plays rows whose name matches.
CHAOS ?= all
CHAOS_SEED ?= 1
ROW ?= .
PARALLEL ?= 40
chaos:
	go test ./tests -run '^TestChaos$$/$(ROW)' -chaos $(CHAOS) -chaos-seed $(CHAOS_SEED) -parallel $(PARALLEL) -count 1 -timeout 0 -v

# The moments at which they are struck, held against what happens; UPDATE=1 writes the lists anew.
moments:
	go test ./tests -run '^TestMoments$$' -chaos all $(if $(UPDATE),-update-moments) -parallel 6 -count 1 -timeout 20m

# Whatever others do at each step of a rotation, stalls and twins: all cases, of which the tests run some.
proof:
	go test ./workflows -run '^(TestWhateverOthersDoAtEachStep|TestAProcessThatStandsStill|TestAnActivityThatComesAgainLater|TestAKeyMayEndByItselfAtEachStep)$$' -every-case -count 1 -timeout 30m

# A rotation that is reset at each of its workflow tasks, by the server.
resets:
	go test ./tests -run '^TestResetAtEachWorkflowTask$$' -resets -count 1 -timeout 60m -v

# A run that is terminated, fails, or is taken over by an incident that is ended, in each of its phases, and the next one.
endings:
	go test ./tests -run '^TestTheNextRotationTakesUp(WhatTemporalEnded|WhatAnIncidentTookOver)$$' -endings -count 1 -timeout 20m -v

# What has a rotation's ID and does not answer an incident: two minutes.
takeovers:
	go test ./tests -run '^TestEmergencyEndsWhatDoesNotAnswer$$' -takeovers -count 1 -timeout 10m -v

# An incident over many credentials, at most 500, while worker and Temporal die at random: make incidents N=150 SEED=7
incidents: N := 500
incidents:
	go test ./tests -run '^TestAnIncidentOverManyCredentialsStruckAtRandom$$' -incidents $(N) $(if $(SEED),-incidents-seed $(SEED)) -count 1 -timeout 60m -v

# Two hundred keys that come due at once: three minutes of the whole machine.
due:
	go test ./tests -run '^TestManyDueAtOnce$$' -due 200 -count 1 -timeout 60m -v

# A package as on a slow and busy machine: make steady PKG=./providers/exec N=20 RUN=TestDeadlines
N   ?= 20
RUN ?= .
steady:
	@test -n "$(PKG)" || { echo "say which: make steady PKG=./consumer"; exit 1; }
	@command -v stress-ng > /dev/null || { echo "needs stress-ng: apt-get install stress-ng"; exit 1; }
	go test -race -c -o /dev/null $(PKG)
	stress-ng --quiet --cpu 6 & load=$$!; trap "kill $$load; wait" EXIT; \
	GOMAXPROCS=1 go test -race -run '$(RUN)' -count $(N) -timeout 0 $(PKG)

# The README's picture, taken anew: the page of a run that waits for approval. Needs a browser: apt-get install chromium-headless-shell
picture:
	KEYTURN_SCREENSHOTS="$(CURDIR)/screenshots" go test -vet=off ./sandbox -run '^TestAPersonApprovesInABrowser$$' -count 1 -timeout 10m -v
	cp screenshots/details.png docs/web-ui.png

sandbox:
	go run ./sandbox

# A gateway and a consumer, and what to type for a first rotation of the key between them.
example:
	go run ./examples/run
