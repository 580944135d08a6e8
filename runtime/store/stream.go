package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stream names one of the store's streams.
type Stream string

// The streams. A Runs record is a run that has ended, its subject the exact key
// of its workload. A Checkpoints record is the newest observation of a run that
// goes on; its subject is the run, and a newer one replaces it. A Rules record is
// a version of the rules of egress; the last MaxRules are kept, whatever their age.
const (
	Runs        Stream = "RUNS"
	Checkpoints Stream = "CHECKPOINTS"
	Events      Stream = "EVENTS"
	Decisions   Stream = "DECISIONS"
	Rules       Stream = "RULES"
)

// MaxRules is how many versions of rules are kept.
const MaxRules = 64

// Options bounds the store. The zero value means the defaults.
type Options struct {
	// RunsPerSubject is how many runs of one workload are kept in full; the
	// model remembers more. Default 64.
	RunsPerSubject int
	// MaxAge is how long runs, events and decisions are kept. Default 400 days.
	MaxAge time.Duration
	// MaxBytes bounds the Runs stream on disk, which holds 200,000 records at most. Default 2 GiB; the other
	// streams together stay under 700 MiB.
	MaxBytes int64
	// Unsynced gives up durability for speed: for tests and for filling a store once.
	Unsynced bool
}

func (o Options) withDefaults() Options {
	if o.RunsPerSubject <= 0 {
		o.RunsPerSubject = 64
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 400 * 24 * time.Hour
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 2 << 30
	}
	return o
}

// maxRuns bounds the records of Runs. The engine remembers each subject in 160
// bytes (measured): a million workloads of one run each would take 150 MiB.
const maxRuns = 200_000

// streams lists the configuration of every stream. The oldest records make
// room for new ones.
func (o Options) streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		o.stream(Runs, maxRuns, o.RunsPerSubject, o.MaxBytes, o.MaxAge),
		o.stream(Checkpoints, -1, 1, 64<<20, 0),
		o.stream(Events, 200_000, -1, 256<<20, o.MaxAge),
		o.stream(Decisions, 100_000, 16, 256<<20, o.MaxAge),
		o.stream(Rules, MaxRules, -1, 64<<20, 0),
	}
}

func (o Options) stream(name Stream, records, perSubject int, size int64, age time.Duration) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              string(name),
		Subjects:          []string{name.prefix() + "*"},
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardOld,
		MaxMsgs:           int64(records),
		MaxMsgsPerSubject: int64(perSubject),
		MaxBytes:          size,
		MaxAge:            age,
		MaxMsgSize:        MaxRecord + envelopeSize + 4096, // S2 may not shrink a body, the header stays
		AllowDirect:       true,
		Duplicates:        time.Second, // we never send message ids: keep no table of them
	}
}

func (s Stream) prefix() string { return strings.ToLower(string(s)) + "." }

// subject is what NATS sees. Names that are not plain short tokens are replaced by
// their hash, so that any string, a hostile one too, is a valid name.
func (s Stream) subject(name string) string { return s.prefix() + token(name) }

func token(name string) string {
	plain := name != "" && len(name) <= 100
	for i := 0; plain && i < len(name); i++ {
		c := name[i]
		plain = c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	if plain {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "x" + hex.EncodeToString(sum[:16])
}
