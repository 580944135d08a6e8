package http1

import "errors"

// Kind names why a message is refused, for counters and answers.
type Kind string

// The kinds.
const (
	BadLine     Kind = "request-line" // of a request or a response: the first line
	BareLF      Kind = "bare-lf"      // a line that ends without a carriage return
	Folded      Kind = "obs-fold"     // a line that continues the one above
	BadName     Kind = "field-name"   // empty, not a token, or followed by a space
	BadValue    Kind = "field-value"  // control characters
	BadLength   Kind = "content-length"
	TwoLengths  Kind = "two-lengths"         // Content-Length twice, equal or not
	BothFramed  Kind = "length-and-encoding" // Content-Length beside Transfer-Encoding
	BadEncoding Kind = "transfer-encoding"   // anything but "chunked", once, in HTTP/1.1
	BadHost     Kind = "host"                // missing, twice, malformed, or not the target's
	BadTarget   Kind = "target"
	BadChunk    Kind = "chunk"
	TooLarge    Kind = "size" // more than MaxHead bytes or MaxFields fields
)

// Fault is a message with no single interpretation.
type Fault struct{ Kind Kind }

func (f *Fault) Error() string { return "malformed HTTP message: " + string(f.Kind) }

// ErrShort says that a head is not complete yet.
var ErrShort = errors.New("the head is not complete")

func fault(k Kind) error { return &Fault{k} }
