package channel

import "fmt"

// Kind is a word for what is wrong with a record.
type Kind string

// What a peer can do wrong. Each closes the channel.
const (
	WrongVersion Kind = "version"   // another format, or garbage
	Oversized    Kind = "oversized" // longer than MaxPayload
	Tampered     Kind = "tampered"  // the MAC is not that of the record
	Replayed     Kind = "replayed"  // a sequence number that was there already
	Gap          Kind = "gap"       // a sequence number too far: a record was lost, or overtaken
	Truncated    Kind = "truncated" // the stream ended inside of a record
	Stalled      Kind = "stalled"   // a record was begun and not completed, or nothing is read at the other end
	Flood        Kind = "flood"     // more than Config.Rate
	Unasked      Kind = "unasked"   // an answer that nobody asked for; package host finds it
)

// Fault is the error of a channel whose peer broke the rules. It stays the error of all later calls.
type Fault struct {
	Kind Kind
	Seq  uint64 // of the record that was to come
}

func (f *Fault) Error() string {
	return fmt.Sprintf("channel closed at record %d: %s", f.Seq, f.Kind)
}
