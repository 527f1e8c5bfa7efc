# What is typed often. Nothing here is needed to build: go build -o weir ./cmd/node

.PHONY: build test race lint figures ci

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

ci:
	.ci/run
