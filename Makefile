# What a person types here. `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
# Node comes with the Python packages, and `flask` is found without activating anything.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Some environments forbid Python to keep what it has compiled: every process we start would then
# compile all of ours anew, which is half a second each time.
export PYTHONDONTWRITEBYTECODE :=
# Many tests wait for processes and clocks: two test processes more than there are processors. With one
# more, two processors had nothing to do for nearly a third of the run. Each test process has services
# of its own, so more than a few would only be in each other's way.
# A module's tests stay together (worksteal), because many share what takes long to start.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ "$$n" -gt 1 ] && echo 4 || echo 3)
# What is done side by side tells its lines in one piece, where make knows how.
TIDY := $(if $(filter output-sync,$(.FEATURES)),--output-sync)
SET_UP := command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed. On Debian 12 or later:  apt-get install -y python3 python3-venv"; exit 1; }; $(PYTHON) bin/setup.py
WITH_DATABASE := $(BIN)/python -m embedded.with_services postgres --
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(u)

.DEFAULT_GOAL := help
.PHONY: help run flask test again check lint layers migrations types pytypes js bench picture lock migrate clean python tools browser everything audit

help: ## list these
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: python ## set up and start everything; PORT=... and BEELINE_VAR=... are honoured
	@exec $(BIN)/python -m embedded.runner --follow-parent

flask: python ## a command beside what `make run` runs; c="keys list"
	@exec $(BIN)/python -m embedded.beside flask $(c)

test: everything ## check, then every test; T=tests/some/test_file.py for one, at once
ifdef T
	@$(BIN)/python -m pytest $(T)
else
	@$(MAKE) --no-print-directory -j3 $(TIDY) check
	@echo "== tests"
	@# The audit only waits for the network: it is looked up meanwhile, and told afterwards.
	@$(BIN)/python bin/audit.py >$(BIN)/audit.log 2>&1 & audit=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal || { [ $$? -eq 1 ] && $(MAKE) --no-print-directory again; }; tests=$$?; \
	echo "== advisories"; wait $$audit; found=$$?; cat $(BIN)/audit.log; \
	[ $$tests -eq 0 ] && exit $$found || exit $$tests
endif

# Tests that wait for real processes and browsers may run out of time beside others, on a machine with
# other things to do. What fails alone as well has failed; what does not is named, to be looked at.
again: python
	@echo "== what failed, once more and alone"
	@$(BIN)/python -m pytest --last-failed --last-failed-no-failures none -rP -q --show-capture=no

audit: python tools ## known advisories against what is pinned; tells what it could not check
	@echo "== advisories"
	@$(BIN)/python bin/audit.py

check: lint layers migrations pytypes types js ## all that needs no test run: style, layers, migrations, types, browser code

lint: python ## ruff and its format
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

layers: python ## who imports whom
	@echo "== import layers"
	@$(BIN)/lint-imports

migrations: python ## the migrations make what the models say
	@echo "== migrations match models"
	@$(WITH_DATABASE) sh -c 'flask db upgrade && flask db check'

pytypes: python ## the Python code's types
	@echo "== types of the Python code"
	@$(BIN)/mypy

types: tools ## the browser code's types
	@echo "== types of the browser code"
	@node_modules/.bin/tsc --noEmit

js: tools ## the browser code's tests
	@echo "== browser code"
	@$(BIN)/node --test "tests/js/**/*.test.js"

bench: python browser ## measure, docs/speed.md says how; N=presign|weight|requests|memory|mail|companion|poll|upkeep|zip|upload|parts
	@$(BIN)/python -m benchmarks $(N)

picture: python browser ## take the README's picture of the sender's page anew
	@$(BIN)/python -m pytest -q tests/browser/test_mail.py -k readmes_picture
	@cp var/screenshots/sender-mail-uploading-1280-light.png docs/sending.png

lock: python ## pin requirements*.in anew; u=--upgrade takes newer versions
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(COMPILE) requirements.in --output-file requirements.txt
	@$(COMPILE) requirements-dev.in --constraints requirements.txt --output-file requirements-dev.txt

migrate: python ## write a migration for changed models; m="what changes"
	@test -n "$$m" || { echo 'usage: make migrate m="what changes"'; exit 2; }
	@$(WITH_DATABASE) sh -c 'flask db upgrade && flask db migrate -m "$$m" --rev-id "$$(printf %04d $$(( $$(ls migrations/versions/*.py | wc -l) + 1 )))"'

clean: ## remove what was set up; var/ with its data stays
	rm -rf .venv node_modules .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find app embedded tests migrations -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(SET_UP) python

tools: python
	@$(SET_UP) node

browser:
	@$(SET_UP) chromium

everything:
	@$(SET_UP) python node chromium

.PHONY: soak audit
soak: python ## people against faults; MINUTES=n SEED=s
	@$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))
