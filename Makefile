# The four things one does with this repository. `scripts/need` installs what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Tools that are not on the PATH lie here.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.PHONY: up test lint bench format clippy nextest doctest tidy deny

# `make up ARGS='--members 3 --port 0'`
up:
	scripts/need cc kubectl
	cargo build --release --locked -p kah-cli
	exec target/release/kah up --members 2 $(ARGS)

# Cheap to dear. The black-box tests are among those of kah-cli.
test: lint nextest doctest deny

lint: format clippy tidy

bench:
	scripts/need cc kubectl
	cargo bench --locked --workspace --benches
	cargo build --release --locked -p kah-cli -p kah-bench
	target/release/kah-bench
	target/release/kah-bench fleet
	target/release/kah-bench crowd

format:
	cargo fmt --all --check

clippy:
	scripts/need cc
	cargo clippy --locked --workspace --all-targets -- -D warnings

nextest:
	scripts/need cc ip kubectl cargo-nextest
	cargo build --locked -p kah-cli
	cargo nextest run --locked --workspace

doctest:
	cargo test --locked --workspace --doc --quiet

tidy:
	cargo run --locked --quiet -p xtask -- tidy

deny:
	scripts/need cargo-deny
	cargo deny --locked check bans licenses sources
