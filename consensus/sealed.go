package consensus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// Values that tell whether they are as they were written, and whether one is missing: bbolt has
// checksums of its first two pages only.

// ErrDamaged says that bytes on the disk are not those that were written.
var ErrDamaged = errors.New("the file is damaged")

// put puts a value behind its checksum.
func put(tx *bbolt.Tx, bucket, key, value []byte) error {
	if err := drop(tx, bucket, key); err != nil {
		return err
	}
	if err := addToSum(tx, 1, checksum(key, value)); err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, seal(key, value))
}

// drop takes a value out, if it is there.
func drop(tx *bbolt.Tx, bucket, key []byte) error {
	sealed := tx.Bucket(bucket).Get(key)
	if len(sealed) < 4 {
		return nil
	}
	if err := addToSum(tx, -1, -binary.BigEndian.Uint32(sealed)); err != nil {
		return err
	}
	return tx.Bucket(bucket).Delete(key)
}

// empty drops all values of a bucket.
func empty(tx *bbolt.Tx, bucket []byte) error {
	var keys [][]byte
	_ = tx.Bucket(bucket).ForEach(func(k, _ []byte) error { keys = append(keys, k); return nil })
	for _, k := range keys {
		if err := drop(tx, bucket, k); err != nil {
			return err
		}
	}
	return nil
}

// get returns what put was given, as long as tx lives, or errNotFound.
func get(tx *bbolt.Tx, bucket, key []byte) ([]byte, error) {
	sealed := tx.Bucket(bucket).Get(key)
	if sealed == nil {
		return nil, errNotFound
	}
	return unseal(key, sealed)
}

func seal(key, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(key, value)), value...)
}

func unseal(key, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != checksum(key, sealed[4:]) {
		return nil, fmt.Errorf("%w: a value does not fit its checksum", ErrDamaged)
	}
	return sealed[4:], nil
}

// checksum is CRC-32C: it finds every error of 1 to 3 bits in what we store (Koopman, 32-bit
// cyclic redundancy codes, 2002).
func checksum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

// sum is how many values there are, and the sum of their checksums.
type sum struct{ n, checks uint32 }

func sumOf(tx *bbolt.Tx) (sum, error) {
	b, err := get(tx, bucketSum, keySum)
	if err != nil || len(b) != 8 {
		return sum{}, fmt.Errorf("%w: its sum (%v)", ErrDamaged, err)
	}
	return sum{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}, nil
}

func (s sum) write(tx *bbolt.Tx) error {
	b := binary.BigEndian.AppendUint32(nil, s.n)
	b = binary.BigEndian.AppendUint32(b, s.checks)
	return tx.Bucket(bucketSum).Put(keySum, seal(keySum, b))
}

func addToSum(tx *bbolt.Tx, n int32, check uint32) error {
	s, err := sumOf(tx)
	if err != nil {
		return err
	}
	return sum{s.n + uint32(n), s.checks + check}.write(tx)
}

func decode(b []byte, out any) error {
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return nil
}
