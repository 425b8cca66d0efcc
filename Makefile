# Two commands matter: `make demo` shows the gateway at work, `make test` proves that it works.
# Everything they need beyond Rust, a C compiler, make, Python 3 and Node they fetch themselves, into this folder.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

CLIENTS := gateway/tests/clients
BIN := target/debug/tidegate
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
say = @printf '\033[1m== %s\033[0m\n'

.PHONY: help
help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## Build and run the gateway in front of a built-in model simulator
	$(say) 'Building the gateway (the first time a few minutes)'
	cargo build --workspace --bins
	exec $(BIN) demo

.PHONY: release
release: ## Build the program as it ships, optimised for what it does under load: target/trained/tidegate (half an hour)
	deploy/build

.PHONY: test
test: test-rust test-clients ## Fetch what the tests need and run them all

.PHONY: test-rust
test-rust: ## Unit, property and black-box tests, in Rust only
	@.ci/prepare rust
	$(say) 'Testing the crates, and the built gateway against scripted backends'
	if [ -n "$(NEXTEST)" ]; then
		cargo nextest run --workspace --no-fail-fast
	else
		cargo test --workspace --no-fail-fast --lib --bins --tests
	fi
	cargo test --workspace --doc

.PHONY: test-clients
test-clients: ## Real SDKs through the gateway against real llama.cpp servers
	@.ci/prepare clients
	$(say) 'Building the gateway the clients talk to'
	cargo build --workspace --all-targets
	export GATEWAY_BIN="$(CURDIR)/$(BIN)"
	$(say) 'Testing with real clients against real llama.cpp servers'
	.venv/bin/python -m pytest -q $(CLIENTS)

.PHONY: check
check: ## Formatting, lints, import rules, dependencies, generated files
	$(say) 'Formatting'
	cargo fmt --all --check
	$(say) 'Lints'
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(say) 'Who imports whom, and what is in the tree'
	.ci/imports
	.ci/dependencies
	$(say) 'Generated files'
	.ci/generated
	$(say) 'Alerts'
	.ci/alerts
	$(say) 'The systemd unit'
	.ci/unit
	$(say) 'What the comparison makes of its numbers'
	.ci/compare

.PHONY: hammer
hammer: ## 64 clients on one bucket of each kind, a million clients with one each, 100,000 made-up names: what came of it
	HAMMER=10 cargo test -q -p tidegate --test it -- --nocapture --test-threads=1 hammer:: measures::however measures::a_scrape

.PHONY: chaos
chaos: ## Three backends, two of them killed and restarted at random for a minute, under load: what the clients saw
	CHAOS=60 cargo test -q -p tidegate --test it -- --nocapture --test-threads=1 chaos::

.PHONY: upgrades
upgrades: ## 1,000 reloads and 20 binary upgrades under 500 requests a second and 100 streams: what the clients saw
	UPGRADES=20 cargo test -q -p tidegate --test it -- --nocapture --test-threads=1 upgrade::load

.PHONY: instructions
instructions: ## Count what the parts of a request cost, and fail where one costs 5 % more than it did (valgrind; some minutes)
	@.ci/prepare instructions
	.ci/instructions

.PHONY: memory
memory: ## What the gateway takes of memory at rest, and for each stream that is open
	.ci/memory

.PHONY: road
road: ## Count what a whole request costs through the built gateway, and which functions take it (valgrind; ten minutes)
	@.ci/prepare instructions
	benches/road/run --write

.PHONY: growth
growth: ## Count how a request's cost grows with backends, models, keys, rules, filters, bytes, connections (valgrind; half an hour)
	@.ci/prepare instructions
	benches/growth/run --write

.PHONY: streams
streams: ## Ten thousand streams open at a time through two gateways in a row, and no error
	benches/streams/run

.PHONY: compare
compare: ## Measure the gateway beside nginx, Envoy, LiteLLM and others, and write docs/benchmarks.md (an hour and a half; two quiet cores)
	benches/compare/run --docs

.PHONY: generate
generate: ## Write the generated files anew
	.ci/generated --write
