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
SYSCONF  ?= /etc
DESTDIR  ?=
FUZZTIME ?= 60s
FUZZCI   ?= 100
BASE     ?=
COUNT    ?=
SOAK     ?= 3m
SOAK_CONTAINERS ?= 10
ORACLE   ?= 1000
KILLS    ?= 5m

BIN    := bin
DIST   := dist
IMAGES := .cache/images

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Packages that decide and never touch the world: test/deps holds them to it, `make cover` to full coverage.
PURE := runtime/policy runtime/rewrite predictor/estimate predictor/risk netns/pdp

# Static binaries, and one build cache for building, vetting and testing, in whatever directory: with other flags all that we build on would
# be compiled twice. Only `make race` and runc need cgo.
export CGO_ENABLED := 0
export GOFLAGS     := $(strip $(filter-out -trimpath,$(GOFLAGS)) -trimpath)

##@ Build

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*##/ {line = sprintf("  make %-15s", $$1); n = split($$2, words, " "); \
	    for (i = 1; i <= n; i++) { \
	      if (length(line) + length(words[i]) >= 100) {print line; line = sprintf("%22s", "")} \
	      line = line " " words[i]} \
	    print line}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build Forefend's binaries into ./bin
	@mkdir -p $(BIN)
	$(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

# Where install puts what; uninstall and the packages go by the same lines.
SHARE := $(DESTDIR)$(PREFIX)/share
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
BASH_COMPLETION := $(SHARE)/bash-completion/completions/forefend
ZSH_COMPLETION  := $(SHARE)/zsh/site-functions/_forefend
FISH_COMPLETION := $(SHARE)/fish/vendor_completions.d/forefend.fish

.PHONY: install
install: build ## Install binaries where containerd finds them, unit, completions, docs, config (PREFIX, SYSCONF, DESTDIR)
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(SHARE)/doc/forefend/decisions' '$(SHARE)/doc/forefend/predictor'
	for main in cmd/*/main.go; do \
	  install -m 0755 "$(BIN)/$$(basename "$${main%/main.go}")" '$(DESTDIR)$(PREFIX)/bin/'; done
	for unit in packaging/systemd/*; do \
	  sed 's#@bindir@#$(PREFIX)/bin#; s#@docdir@#$(PREFIX)/share/doc/forefend#' "$$unit" | install -D -m 0644 /dev/stdin "$(UNITS)/$${unit##*/}"; done
	$(BIN)/forefend completion bash | install -D -m 0644 /dev/stdin '$(BASH_COMPLETION)'
	$(BIN)/forefend completion zsh | install -D -m 0644 /dev/stdin '$(ZSH_COMPLETION)'
	$(BIN)/forefend completion fish | install -D -m 0644 /dev/stdin '$(FISH_COMPLETION)'
	install -m 0644 README.md LICENSE config.toml.example docs/*.md '$(SHARE)/doc/forefend/'
	install -m 0644 docs/decisions/*.md '$(SHARE)/doc/forefend/decisions/'
	install -m 0644 docs/predictor/*.md '$(SHARE)/doc/forefend/predictor/'
	[ -e '$(DESTDIR)$(SYSCONF)/forefend/config.toml' ] || \
	  sed 's#@docdir@#$(PREFIX)/share/doc/forefend#' packaging/config.toml | install -D -m 0644 /dev/stdin '$(DESTDIR)$(SYSCONF)/forefend/config.toml'

.PHONY: uninstall
uninstall: ## Remove what install has installed, except the configuration; history and state stay too
	for main in cmd/*/main.go; do rm -f "$(DESTDIR)$(PREFIX)/bin/$$(basename "$${main%/main.go}")"; done
	for unit in packaging/systemd/*; do rm -f "$(UNITS)/$${unit##*/}"; done
	rm -f '$(BASH_COMPLETION)' '$(ZSH_COMPLETION)' '$(FISH_COMPLETION)'
	rm -rf '$(SHARE)/doc/forefend'

# A package's version begins with a digit and has no dash: a tag without its v, else the number of commits orders builds.
PKG_VERSION ?= $(shell n=$$(git rev-list --count HEAD 2>/dev/null || echo 0); \
  echo '$(VERSION)' | sed -e 's/-/./g' -e '/^v[0-9]/{s/^v//;q}' -e "s/^/0.0.$$n+/")

.PHONY: packages
packages: ## Build dist/*.deb and dist/*.rpm
	@[ -x $(BIN)/nfpm ] || GO='$(GO)' test/tools/setup $(BIN) nfpm
	rm -rf '$(DIST)'
	$(MAKE) --no-print-directory install PREFIX=/usr SYSCONF=/etc DESTDIR='$(abspath $(DIST))/stage'
	install -D -m 0644 LICENSE '$(DIST)/stage/usr/share/doc/forefend/copyright'
	for format in deb rpm; do \
	  PKG_STAGE='$(DIST)/stage' PKG_VERSION='$(PKG_VERSION)' PKG_ARCH="$$($(GO) env GOARCH)" \
	    $(BIN)/nfpm package -f packaging/nfpm.yaml -p $$format -t '$(DIST)/'; done

.PHONY: setup
setup: ## Install Debian packages and pinned tools (containerd, ctr, shim, runc) that tests need
	@GO='$(GO)' test/tools/setup $(BIN)

.PHONY: setup-test
setup-test: ## Install, besides, the other containerds, nerdctl and what else tests need
	@GO='$(GO)' test/tools/setup $(BIN) all

.PHONY: images
images: ## Build the test images (redis, nginx, busybox, static) into ./.cache/images
	@GO='$(GO)' $(GO) run ./test/images -out $(IMAGES)

.PHONY: record-usage
record-usage: ## Record the memory of real servers for `forefend eval limit` (five minutes; after: images)
	$(GO) run ./test/usage -images $(IMAGES) -for 5m

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
check: lint ## Format, vet, lint, unit tests, import law: no root, no network, under a minute warm
	@echo '== unit tests and import law'; FOREFEND_ROOT_TESTS= $(GO) test -short ./...

.PHONY: lint
lint: ## Format, vet, lint
	@echo '== gofmt'; unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	  if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	@echo '== go vet'; $(GO) vet ./...
	@echo '== staticcheck'; $(GO) tool staticcheck ./...

.PHONY: test
test: ## Set everything up, then every test, root parts and a smoke test in the VM included
	@$(MAKE) --no-print-directory setup-test vm-setup build images
	@$(MAKE) --no-print-directory lint cover fuzz-ci
	@$(MAKE) --no-print-directory test-root VM_SMOKE_BESIDE=yes

# Packages with tests that change the machine, by what these import: one after the other; the rest side by side, and beside the soak, which
# mostly waits. All have leave to run what needs root, so a test that this overlooks is not skipped. Never from go's cache: it does not see
# that a binary in ./bin changed. What lint has vetted is not vetted again. With VM_SMOKE_BESIDE the VM, which uses one processor and
# shares nothing with this machine but its files, is beside the tests that need root, which wait a good part of the time.
ROOT_TESTS := '$$0 ~ /forefend\/test\/(root|network|e2e\/harness)( |$$)/'

.PHONY: test-root
test-root: ## The tests that need root, containerd and the images, and whole what check runs short (after: setup-test build images)
	@mkdir -p .cache; export FOREFEND_ROOT_TESTS=1 SOAK='$(SOAK)' SOAK_CONTAINERS='$(SOAK_CONTAINERS)'; status=0; \
	 tests=$$($(GO) list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./...); \
	 $(GO) test -vet=off -count=1 -timeout 45m ./test/soak >.cache/soak.log 2>&1 & soak=$$!; \
	 echo '== tests that change nothing'; \
	 $(GO) test -vet=off -count=1 -timeout 20m $$(awk '!('$(ROOT_TESTS)') {print $$1}' <<<"$$tests") || status=$$?; \
	 wait $$soak || status=$$?; cat .cache/soak.log; \
	 [ -z '$(VM_SMOKE_BESIDE)' ] || { $(VM_SMOKE_TEST) >.cache/vm-smoke.log 2>&1 & smoke=$$!; }; \
	 echo '== tests that need root'; \
	 $(GO) test -vet=off -p 1 -count=1 -timeout 45m $$(awk $(ROOT_TESTS)' && $$1 !~ /test\/soak$$/ {print $$1}' <<<"$$tests") || status=$$?; \
	 [ -z '$(VM_SMOKE_BESIDE)' ] || { wait $$smoke || status=$$?; echo '== in the VM'; cat .cache/vm-smoke.log; }; \
	 exit $$status

.PHONY: test-apps
test-apps: ## Real applications by nerdctl, stock and Forefend compared (minutes; after: setup-test build images)
	@GO='$(GO)' $(GO) run ./test/images -out $(IMAGES) apps
	FOREFEND_ROOT_TESTS=1 FOREFEND_APPS=1 $(GO) test -count=1 -timeout 30m -run TestApps ./test/nerdctl

# In the VM: tests that touch cgroups and the kernel. Compiled here, since emulation is twenty times as slow; with one
# processor, since the emulator loses interrupts with more.
VM          := .cache/vm/vm
VM_CPUS     ?= 1
VM_SMOKE    := ^(TestRoot.*|TestCgroup|TestUpdate|TestObservation|TestDaemonIsApart)$$|^TestLifecycle$$/^(pause|oom)$$
VM_SMOKE_TEST = $(VM) test -cpus $(VM_CPUS) -timeout 30m -boot 5m -run '$(VM_SMOKE)' ./runtime/cgroup ./netns/gate ./test/e2e
VM_PACKAGES := ./runtime/cgroup ./netns/gate ./netns/egress ./netns/uplink ./netns/gateway ./runtime/bundle ./runtime/rootfs ./runtime/seccomp ./test/e2e/harness ./test/e2e

.PHONY: vm-setup
vm-setup: ## Fetch the test VM's kernel and emulator (once, into ./.cache/vm)
	@mkdir -p $(dir $(VM))
	$(GO) build -o $(VM) ./test/vm
	@$(VM) setup

.PHONY: test-vm
test-vm: ## The core suite in a VM: cgroup v2, a stock kernel (an hour; after: setup vm-setup build images)
	$(VM) setup systemd
	$(VM) test -cpus $(VM_CPUS) -timeout 20m -boot 5m -systemd -run '^(TestSystemdCgroup|TestUnits)$$' ./test/e2e
	FOREFEND_EGRESS_WAIT=60s $(VM) test -cpus $(VM_CPUS) -timeout 90m $(VM_PACKAGES)
	$(VM) test -cpus $(VM_CPUS) -timeout 20m -run '^(TestRootReceipts.*|TestRootDrain)$$' ./netns/tunnel

.PHONY: test-vm-smoke
test-vm-smoke: ## What differs between cgroup v1 and v2, in the VM (minutes; after the same)
	$(VM_SMOKE_TEST)

# Not in CI: other people's suites, half an hour for both.
.PHONY: test-critest
test-critest: ## Run critest and containerd's suite for CRI under Forefend and stock runc, fail on a difference
	@$(MAKE) --no-print-directory setup-test build images
	cd test/tools/cri-tools && $(GO) build -o '$(CURDIR)/$(BIN)/' sigs.k8s.io/cri-tools/cmd/crictl
	cd test/tools/cri-tools && $(GO) test -c -o '$(CURDIR)/$(BIN)/critest' sigs.k8s.io/cri-tools/cmd/critest
	cd test/tools/containerd-cri && $(GO) test -c -o '$(CURDIR)/$(BIN)/containerd-cri.test' \
	  github.com/containerd/containerd/v2/integration
	$(GO) run ./test/conformance -suite critest
	$(GO) run ./test/conformance -suite containerd

.PHONY: test-crash
test-crash: ## Every process killed at every step, the power cut after every write (after: setup build images)
	FOREFEND_ROOT_TESTS=1 FOREFEND_CRASH=all $(GO) test -v -count=1 -timeout 60m ./test/crash/...

.PHONY: soak
soak: SOAK = 30m
soak: SOAK_CONTAINERS = 50
soak: ## Fifty containers, random changes, kills of daemon and agents: nothing hurt, nothing grows (SOAK=1h; after: setup build images)
	FOREFEND_ROOT_TESTS=1 SOAK='$(SOAK)' SOAK_CONTAINERS='$(SOAK_CONTAINERS)' $(GO) test -v -count=1 -timeout 24h -run TestSoak ./test/soak

.PHONY: lives
lives: LIVES = 10000
lives: ## Ten thousand containers come and go: nothing is left, nothing grows (LIVES=n: two a second; after: setup build images)
	FOREFEND_ROOT_TESTS=1 LIVES='$(LIVES)' $(GO) test -v -count=1 -timeout 24h -run TestLives ./test/soak

.PHONY: soak-egress
soak-egress: SOAK_EGRESS = 10000
soak-egress: ## Ten thousand forgeries and breakages of egress at random, with a capture of what leaves (SOAK_EGRESS=n; 45 s as part of make test)
	FOREFEND_ROOT_TESTS=1 FOREFEND_SOAK_EGRESS='$(SOAK_EGRESS)' $(GO) test -count=1 -v -timeout 6h -run '^TestRootSoak$$' ./netns/egress

.PHONY: test-rules
test-rules: ## A million decisions of egress compared with plain CEL (minutes)
	FOREFEND_RULE_PAIRS=1000000 $(GO) test -v -count=1 -timeout 30m -run '^TestDifferential$$' ./netns/pdp

.PHONY: feeds
feeds: FEEDS_CONTAINERS = 100
feeds: ## A hundred containers that share a hundred thousand listed prefixes (FEEDS_CONTAINERS=n; after: setup build images)
	FOREFEND_ROOT_TESTS=1 FEEDS_CONTAINERS='$(FEEDS_CONTAINERS)' $(GO) test -v -count=1 -timeout 1h -run 'TestFeedsOfManyContainers$$' ./test/e2e

.PHONY: oracle
oracle: ## A thousand random changes of a running container against an oracle (ORACLE=n; after: setup build images)
	FOREFEND_ROOT_TESTS=1 ORACLE='$(ORACLE)' $(GO) test -v -count=1 -timeout 2h -run 'TestOracle$$' ./test/e2e

.PHONY: kills
kills: ## Kill the daemon over and over under load and changes (KILLS=5m; after: setup build images)
	FOREFEND_ROOT_TESTS=1 KILLS='$(KILLS)' $(GO) test -v -count=1 -timeout 24h -run 'TestDaemonKilledInFlight$$' ./test/e2e

.PHONY: figures-airbag
figures-airbag: ## Containers that grow to four times their predicted memory limit: docs/live.md's table (COUNT=50: an hour and a half; after: setup build images)
	FOREFEND_ROOT_TESTS=1 FOREFEND_AIRBAG_TRIES='$(or $(COUNT),50)' $(GO) test -v -count=1 -timeout 3h -run '^TestAirbagFigures$$' ./test/e2e

.PHONY: race
race: ## Unit tests under the race detector
	CGO_ENABLED=1 FOREFEND_ROOT_TESTS= $(GO) test -short -race -timeout 20m ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME each
	@GO='$(GO)' test/tools/fuzz '$(FUZZTIME)'

.PHONY: fuzz-ci
fuzz-ci: ## Run every fuzz target, FUZZCI seconds for all of them together
	@GO='$(GO)' test/tools/fuzz '$(FUZZCI)' total

.PHONY: cover
cover: ## Check that the pure packages are covered completely
	@GO='$(GO)' test/tools/cover $(PURE)

.PHONY: bench
bench: ## Measure against stock runc (COUNT=n paired rounds, BASE=ref compares Go benchmarks)
	@$(MAKE) --no-print-directory setup-test build images
	@GO='$(GO)' $(GO) run ./test/images -out $(IMAGES) servers
	BASE='$(BASE)' COUNT='$(COUNT)' $(GO) run ./test/bench

.PHONY: clean
clean: ## Remove what build, images and tests left in the repository
	rm -rf $(BIN) .cache dist
