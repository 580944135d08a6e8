package history

import (
	"crypto/sha256"
	"encoding/binary"
)

// maxRecent is how many runs are remembered as counted, so that a
// repeated final observation counts once. A repetition comes within minutes.
const maxRecent = 1 << 15

// recent is the set of the newest runs that were counted, by hash.
type recent struct {
	set  map[uint64]struct{}
	aged []uint64 // a ring once it is full
	next int      // of aged: the oldest
}

func newRecent() recent { return recent{set: make(map[uint64]struct{})} }

func hashRun(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.LittleEndian.Uint64(sum[:])
}

func (r *recent) has(id string) bool {
	_, ok := r.set[hashRun(id)]
	return ok
}

// add reports whether id was not there yet.
func (r *recent) add(id string) bool { return r.addHash(hashRun(id)) }

func (r *recent) addHash(h uint64) bool {
	if _, ok := r.set[h]; ok {
		return false
	}
	if len(r.aged) < maxRecent {
		r.aged = append(r.aged, h)
	} else {
		delete(r.set, r.aged[r.next])
		r.aged[r.next] = h
		r.next = (r.next + 1) % maxRecent
	}
	r.set[h] = struct{}{}
	return true
}
