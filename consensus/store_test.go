package consensus

import (
	"testing"
)

// openTest opens a store that does not wait for the disk.
func openTest(t *testing.T, path string) *Store {
	t.Helper()
	s, err := OpenStore(StoreConfig{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
