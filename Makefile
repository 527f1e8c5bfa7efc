# What is typed often. Nothing here is needed to build: go build -o weir ./cmd/node

.PHONY: build test race lint figures sim-night ci

build:
	go build -o weir ./cmd/node

test:
	go test ./...

race:
	go test -race ./...

lint:
	go vet ./...
	test -z "$$(gofmt -l .)"

# The figures of the README, measured on this machine in about six minutes; add a row in
# cmd/node/figures_test.go.
figures:
	WEIR_FIGURES=1 go test ./cmd/node ./stream -run "^Test(Hop)?Figures$$" -v -count=1 -timeout=20m -p 1

# An hour of chaos: each seed that fails is printed with the command that runs it again.
sim-night:
	go run ./cmd/node sim --chaos medium --nodes 9 --seeds 1..3000

ci:
	.ci/run
