# Forefend's build and tests. `make` alone lists the targets.
#
# Everything lands in ./bin (binaries) and ./.cache (images, coverage); outside the repository only `make setup`
# (Debian packages) and `make install` write.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 60s
BASE     ?=
COUNT    ?=

BIN    := bin
IMAGES := .cache/images

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Packages that decide and never touch the world: test/deps holds them to it, `make cover` to full coverage.
PURE := runtime/policy runtime/rewrite predictor/estimate predictor/risk netns/pdp

# Static binaries, and one build cache for building, vetting and testing. Only `make race` and runc need cgo.
export CGO_ENABLED := 0

##@ Build

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*##/ {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build Forefend's binaries into ./bin
	@mkdir -p $(BIN)
	$(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

.PHONY: install
install: build ## Install the binaries where containerd finds them (PREFIX, DESTDIR)
	install -d '$(DESTDIR)$(PREFIX)/bin'
	for main in cmd/*/main.go; do \
	  install -m 0755 "$(BIN)/$$(basename "$${main%/main.go}")" '$(DESTDIR)$(PREFIX)/bin/'; done

.PHONY: setup
setup: ## Install Debian packages and pinned tools (containerd, ctr, shim, runc) that tests need
	@GO='$(GO)' test/tools/setup $(BIN)

.PHONY: setup-test
setup-test: ## Install, besides, the other containerds, nerdctl and what else tests need
	@GO='$(GO)' test/tools/setup $(BIN) all

.PHONY: images
images: ## Build the test images (redis, nginx, busybox, static) into ./.cache/images
	@GO='$(GO)' $(GO) run ./test/images -out $(IMAGES)

.PHONY: generate
generate: ## Run go generate
	$(GO) generate ./...

##@ Try

.PHONY: run
run: ## Set everything up, then the main job on real servers, told step by step
	@$(MAKE) --no-print-directory setup build images
	$(GO) run ./test/demo

##@ Test

.PHONY: check
check: ## Format, vet, lint, unit tests, import law: no root, no network, under a minute warm
	@echo '== gofmt'; unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	  if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	@echo '== go vet'; $(GO) vet ./...
	@echo '== staticcheck'; $(GO) tool staticcheck ./...
	@echo '== unit tests and import law'; FOREFEND_ROOT_TESTS= $(GO) test -short ./...

.PHONY: test
test: ## Set everything up, then every test, root parts included
	@$(MAKE) --no-print-directory setup-test build images
	@$(MAKE) --no-print-directory check cover test-root

# Never from go's cache: it does not see that a binary in ./bin changed.
.PHONY: test-root
test-root: ## The tests that need root, containerd and the images (after: setup-test build images)
	FOREFEND_ROOT_TESTS=1 $(GO) test -p 1 -count=1 -timeout 30m ./...

.PHONY: race
race: ## Unit tests under the race detector
	CGO_ENABLED=1 FOREFEND_ROOT_TESTS= $(GO) test -short -race -timeout 20m ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME each
	@GO='$(GO)' test/tools/fuzz '$(FUZZTIME)'

.PHONY: cover
cover: ## Check that the pure packages are covered completely
	@GO='$(GO)' test/tools/cover $(PURE)

.PHONY: bench
bench: ## Measure against stock runc (COUNT=n paired rounds, BASE=ref compares Go benchmarks)
	@$(MAKE) --no-print-directory setup build images
	BASE='$(BASE)' COUNT='$(COUNT)' $(GO) run ./test/bench

.PHONY: clean
clean: ## Remove what build, images and tests left in the repository
	rm -rf $(BIN) .cache dist
