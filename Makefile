# The commands of this project; `make help` lists them.
#
# PYTHON=/path/to/python3   another interpreter; each version has its own environment in .venv/
# FLOOR=1                   the oldest supported versions of everything, those of Debian 13
# VERSIONS=1                only the tests that depend on versions of Python and of libraries
# KEEP=1                    leave the demo running
# FAST=1                    the demo with a small game that is made in a moment
# EVACUATE=1                the demo of a node with eight games that empties itself; docs/evacuate.md says how to
#                           do that with a real Panel
# RECORD=DIRECTORY          the demo's pictures: demo.svg (its output) and live-move.svg (its first move)
# ARGS=...                  more words for pytest, in test, browser and quotas, such as ARGS="-k panel -x"
# WAYS=1                    print the files that ways counts, too
# LINES=1                   structure prints the first sentence of each module, in place of sizes
# OUT=...                   the directory of a recording of wire, in place of build/wire
# AGAINST=...               recordings of another commit that wire compares with, such as AGAINST="a b c"
# FROM=...                  the commit from which updates updates, in place of the last one
# COVERAGE=1                measure the line coverage of wingsd/ by the tests
# COUNT=...                 how many kills of each kind, in place of 100, races of each, of 10,000,
#                           power losses on each file system, of 300, or decisions of unchanged on
#                           each, of 20,000, and of unchanged-vm, of 10,000
# SEED=...                  the seed of kills, races, power losses or decisions
# AT_ONCE=...               how many processes of unchanged run at once, each with the next seed
# FS=...                    the only file system of power, unchanged, unchanged-vm and bad-disks: ext4, xfs or
#                           btrfs; of unchanged also tmpfs or overlay
# KIND=...                  the only kind: transfers, containers, installations, backups, removal,
#                           making, restores, pool, uploading, streaming, history, history-killed, history-damaged,
#                           history-follows, history-backups, history-backups-containers, rewinds,
#                           rewinds-containers, backups-follow, backups-follow-points, moves,
#                           moves-containers, moves-proxy, moves-by-hand, moves-seeded, live,
#                           live-faults, evacuate or evacuate-containers; of races the only action,
#                           such as KIND="copy to"; of lines lossy or dead; of updates move,
#                           "direct transfer", copy or commit
# FUZZ_SECONDS=...          how long each target is fuzzed, in place of ten minutes
# TARGET=...                the only target that is fuzzed
# CHECKED=1                 release what was tested before, without running it all again
# DEB_BUILD_OPTIONS=nocheck the package without its tests, in a few minutes
# PREVIOUS=...              the package of another version, for deb-test to upgrade from
# SCRIPT=...                the only script of debian/tests that deb-test runs
# ROUNDS=...                how many rounds of each data set, in place of five
# SERIES=...                the only series of benchmarks, such as SERIES="receive send", "move resume live",
#                           slow_line, move_growth, seed, history or sftp
# MINUTES=...               how long a copy follows its server in the series seed, in place of an hour
# CASES=...                 the only cases of the series live, such as CASES="5 line"; the others are 1, 20
#                           and many; or of the series floods, such as CASES="'TLS handshakes' KeyUpdates"

PYTHON ?= $(if $(FLOOR),/usr/bin/python3,python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)$(if $(FLOOR),-floor)
PREPARE := PYTHON=$(PYTHON) VENV=$(VENV) FLOOR=$(FLOOR) FAST=$(FAST) tools/prepare
BIN := $(VENV)/bin
# Named one by one: the document's examples in docs/http.md keep their form.
CODE := wingsd tests demo fuzz bench handbook docs/conf.py twisted debian setup.py
FUZZ_SECONDS ?= 600
# Tests that VERSIONS=1 keeps of packages that it leaves out: of whole daemons, which between them use
# each library and move servers in each way, and of modules that import a library.
KEPT := $(patsubst %,daemon/test_%.py,clients decompress egg_files ending engine live_moves metrics \
	move pages pulls receiving s3_backups sftp sftp_clients starting) \
	backups/test_s3.py transfers/test_upload_form.py
# What VERSIONS=1 leaves out, since no version of Python or of a library decides it: kills, losses of
# power, races and the kernel's own figures; system calls and formats of this project; documents; and
# packages that import nothing but the standard library, Twisted and attrs, which whole daemons use
# with each version. A test that is not named here runs.
ANY_VERSION := \
	crash power quota_vm unchanged ways wire filesystem fuzz moves archive/test_disks.py \
	archive/test_extract.py archive/test_hostile.py archive/test_pack.py \
	archive/test_quota.py archive/test_shared_tree.py \
	archive/test_sparse.py archive/test_tree_writer.py handbook test_code_blocks.py \
	test_documents.py test_release.py test_troubleshooting.py test_words.py \
	activity direct_transfers restores servers transfers/incoming transfers/outgoing \
	transfers/storage $(filter-out $(KEPT),$(patsubst tests/%,%,$(wildcard \
	tests/backups/test_*.py tests/daemon/test_*.py tests/transfers/test_*.py)))

.PHONY: help demo test browser kills races power lines unchanged unchanged-vm bad-disks quotas fuzz bench docs deb deb-test release lint format structure ways wire updates openapi clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: ## move a real game server from one node to another and show what happened
	@$(PREPARE) demo
	@$(BIN)/python -m demo $(if $(FAST),--fast) $(if $(EVACUATE),--evacuate) $(if $(KEEP),--keep) $(if $(RECORD),--record $(RECORD))

# Two processes for each core, since tests wait for other processes half of their time. All import
# all tests: with bytecode, whatever the environment says, in half the time.
test: ## run all tests
	@$(PREPARE) test
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses=$$((2 * $$(nproc))) --dist=worksteal \
	  $(if $(VERSIONS),$(ANY_VERSION:%=--ignore=tests/%)) \
	  $(if $(COVERAGE),--cov=wingsd --cov-report=term) $(ARGS)

browser: ## download and upload files of a server with Chromium
	@$(PREPARE) browser
	@BROWSER=1 $(BIN)/pytest tests/browser $(ARGS)

kills: ## kill nodes in the middle of transfers, and check that nothing is lost
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash kills $(KIND) $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

races: ## use files while another process swaps links, and check that nothing outside is touched
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash races $(if $(KIND),"$(KIND)") $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

power: ## have the power fail in the middle of moves, and check what was reported as durable (root)
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash power $(FS) $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

lines: ## move a server over a line that loses packets, and over one that is dead for ten minutes (root)
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash lines $(KIND)

unchanged: ## compare what moves carry over unread with the disk, while a program writes (root)
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash unchanged $(FS) $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) \
		$(if $(AT_ONCE),--at-once $(AT_ONCE))

unchanged-vm: ## the same under Debian's own kernel, in a virtual machine
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash unchanged-vm $(FS) $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

bad-disks: ## have disks fail, be full and lose sectors under histories, in a virtual machine
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash bad-disks $(FS) $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

quotas: ## check project quotas of ext4 and XFS in a virtual machine, also with a real daemon
	@$(PREPARE) quotas
	@$(BIN)/python -m tests.crash quotas -- $(ARGS)

fuzz: ## look for inputs that crash or hang what reads other people's bytes
	@$(PREPARE) fuzz
	@$(BIN)/python -m fuzz $(TARGET) --seconds $(FUZZ_SECONDS)

bench: ## measure beside the reference programs and write docs/benchmarks.md (root, an hour, 60 GiB of disk)
ifdef FLOOR
	@$(PREPARE) bench
	@$(BIN)/python -m bench $(SERIES) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(CASES),--cases $(CASES)) $(if $(MINUTES),--minutes $(MINUTES))
else # on what the service runs on: the interpreter and the versions of the distribution
	@$(MAKE) --no-print-directory bench FLOOR=1
endif

docs: ## make the documents as a site, in build/docs, with what is made from the code
	@$(PREPARE) docs
	@$(BIN)/python -m handbook
	@$(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going \
	  -d .cache/doctrees docs build/docs
	@echo "==> build/docs/index.html"

deb: ## build the Debian package, in a small system that has only what it asks for (root)
	@$(PREPARE) deb
	@tools/deb

deb-test: deb ## boot a small Debian, install the package in it and test the service (root)
	@$(PREPARE) deb-test
	@tools/deb-test

release: ## test this version of main, build the package and the source archive, and tag it (root)
	@tools/release check
ifndef CHECKED
	@.ci/run
	@$(MAKE) --no-print-directory demo
	@$(MAKE) --no-print-directory deb-test
endif
	@tools/release finish

lint: ## run the linters and the type checker, and look for words that readers stumble over
	@$(PREPARE) lint
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy wingsd tests demo fuzz bench handbook docs/conf.py twisted/plugins
	@MYPYPATH=debian/tests $(BIN)/mypy debian/tests
	@$(BIN)/lint-imports
	@$(BIN)/towncrier build --draft --version next >/dev/null
	@tools/lint-openapi docs/openapi.yml
	@tools/lint-words

format: ## put the code into its form
	@$(PREPARE) lint
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

# Not by $(LINES) alone: a shell may export the height of its terminal by that name.
structure: ## print the size of wingsd/ and of its packages, or with LINES=1 what each module is
	@tools/structure $(if $(findstring command,$(origin LINES)),--lines)

ways: ## count the files that ten things pass through in two daemons, and write that to docs/architecture.md
	@$(PREPARE) test
	@$(BIN)/python -m tests.ways $(if $(WAYS),--files)

wire: ## record requests and answers in the tests of transfers in OUT=..., and compare with AGAINST=...
	@$(PREPARE) test
	@$(BIN)/python -m tests.wire $(or $(OUT),build/wire) $(if $(AGAINST),--against $(AGAINST))

updates: ## kill daemons of the commit FROM=... in the middle of transfers, and go on with this code
	@$(PREPARE) test
	@$(BIN)/python -m tests.crash updates --from $(or $(FROM),HEAD) $(if $(KIND),"$(KIND)")

openapi: ## write docs/openapi.yml, which describes the HTTP interface, from the code
	@$(PREPARE) lint
	@$(BIN)/python -m handbook.openapi >.cache/openapi.yml
	@mv .cache/openapi.yml docs/openapi.yml

clean: ## remove everything these commands made in this directory
	rm -rf .venv .cache dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
