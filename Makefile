# One line a command; what each does is in scripts/ and tests/lab/.
.DEFAULT_GOAL := help
.PHONY: help build demo test e2e soak bench bench-loops lint deny package book setup lab-up lab-status lab-down

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

build: ## kindlift itself, into target/release
	scripts/setup.sh build
	cargo build --release --locked

demo: ## The main job on real input, in the Kind cluster it finds or in a lab it makes
	scripts/demo.sh

test: ## Everything that proves the project (root or sudo; makes a lab)
	scripts/test.sh

e2e: ## Of these, the loops: real Skaffold and Tilt, and what the pods answer
	scripts/test.sh --test e2e

soak: ## What make test does little of, for long: the kill test 200 times, ten minutes of fuzzing a target, the tests without tunnels
	scripts/soak.sh

bench: ## Whole commands side by side with kind load (see docs/benchmarks.md)
	scripts/bench.sh

bench-loops: ## From an edit to the pod that serves it, under Skaffold and Tilt, side by side
	scripts/bench-loops.sh

lint: ## Formatting, clippy, shell scripts
	scripts/lint.sh

deny: ## Licences and sources of dependencies, advisories where their list can be had
	scripts/deny.sh

package: ## Static programs, Debian packages and the crate, into target/dist
	scripts/package.sh

book: ## The pages of docs/ as a book, into target/book
	scripts/book.sh

setup: ## Install missing Debian packages (root)
	scripts/setup.sh build test

lab-up: ## Engines and stand-in Kind nodes, all of them
	tests/lab/lab up --all

lab-status: ## What is up, and the versions
	tests/lab/lab status

lab-down: ## Remove the lab; its cache stays
	tests/lab/lab down
