package http1

import (
	"bytes"
)

// Bounds of a head. Servers bound theirs at 8 to 64 KiB and 100 to 1000 fields.
const (
	MaxHead   = 64 << 10 // bytes, the blank line included
	MaxFields = 256
)

// Head is the head of one message. Its slices are parts of what was parsed, and good for as long as that is.
type Head struct {
	Size   int // bytes, the blank line included
	Minor  int // of the version: 0 or 1
	Method []byte
	Target []byte
	Status int // of a response; 0: it is a request

	// Length is what Content-Length says; -1: there is none.
	Length  int64
	Chunked bool
	// Close and KeepAlive are the options of Connection.
	Close, KeepAlive bool
	// Upgrade tells that the message offers or makes a change of protocol.
	Upgrade bool
	// Continue tells of Expect: 100-continue.
	Continue bool
	// Host is the value of the field; nil: there is none.
	Host []byte

	fields []Field
}

// Field is one header field as it stands in the head, the value without the white space around it.
type Field struct{ Name, Value []byte }

// Fields are the fields in their order.
func (h *Head) Fields() []Field { return h.fields }

// End finds where the head at the beginning of b ends. from is where the search goes on: 0 at first, then what the last
// call returned as resume. size is 0 while the end is not there.
func End(b []byte, from int) (size, resume int) {
	for i := from; ; i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0, len(b)
		}
		i += n
		rest := b[i+1:]
		switch {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 2, 0
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3, 0
		case len(rest) == 0, len(rest) == 1 && rest[0] == '\r':
			return 0, i
		}
	}
}

// reset empties h and keeps its memory.
func (h *Head) reset(size int) { *h = Head{Size: size, Length: -1, fields: h.fields[:0]} }

// ParseRequest reads the head of a request, all of b, whose size End found. The error is a *Fault.
func (h *Head) ParseRequest(b []byte) error {
	h.reset(len(b))
	line, rest, err := cutLine(b)
	if err != nil {
		return err
	}
	method, line, ok := bytes.Cut(line, space)
	if !ok || !IsToken(method) || len(method) > MaxMethod {
		return fault(BadLine)
	}
	target, version, ok := bytes.Cut(line, space)
	if !ok || !IsTarget(target) || !h.version(version) {
		return fault(BadLine)
	}
	h.Method, h.Target = method, target
	var lengths, codings, hosts int
	if err := h.readFields(rest, &lengths, &codings, &hosts); err != nil {
		return err
	}
	if hosts > 1 || hosts == 0 && h.Minor == 1 {
		return fault(BadHost)
	}
	if string(method) == "CONNECT" && (h.Length > 0 || h.Chunked) {
		return fault(BadLength) // what such a body would mean is not defined (RFC 9110, 9.3.6)
	}
	return nil
}

// MaxMethod bounds a method's name; the longest registered one has 16 letters.
const MaxMethod = 32

var space = []byte{' '}

func (h *Head) version(v []byte) bool {
	switch string(v) {
	case "HTTP/1.1":
		h.Minor = 1
	case "HTTP/1.0":
		h.Minor = 0
	default:
		return false
	}
	return true
}

// ParseResponse reads the head of a response, all of b, whose size End found. The error is a *Fault.
func (h *Head) ParseResponse(b []byte) error {
	h.reset(len(b))
	line, rest, err := cutLine(b)
	if err != nil {
		return err
	}
	const version = len("HTTP/1.1")
	if len(line) < version+4 || line[version] != ' ' || !h.version(line[:version]) {
		return fault(BadLine)
	}
	code, reason := line[version+1:version+4], line[version+4:]
	for _, c := range code {
		if c < '0' || c > '9' {
			return fault(BadLine)
		}
		h.Status = 10*h.Status + int(c-'0')
	}
	if h.Status < 100 || len(reason) > 0 && reason[0] != ' ' || !IsText(reason) {
		return fault(BadLine)
	}
	var lengths, codings, hosts int
	return h.readFields(rest, &lengths, &codings, &hosts)
}

// readFields reads the lines up to the blank one, and what they say of the framing.
func (h *Head) readFields(b []byte, lengths, codings, hosts *int) error {
	for {
		line, rest, err := cutLine(b)
		if err != nil {
			return err
		}
		b = rest
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			return fault(Folded)
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !IsToken(line[:colon]) {
			return fault(BadName)
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !IsText(value) {
			return fault(BadValue)
		}
		if len(h.fields) == MaxFields {
			return fault(TooLarge)
		}
		h.fields = append(h.fields, Field{name, value})
		switch len(name) {
		case len("host"):
			if Is(name, "host") {
				*hosts++
				h.Host = value
			}
		case len("expect"):
			if Is(name, "expect") && Is(value, "100-continue") {
				h.Continue = true
			}
		case len("upgrade"):
			if Is(name, "upgrade") {
				h.Upgrade = true
			}
		case len("connection"):
			if Is(name, "connection") {
				h.options(value)
			}
		case len("content-length"):
			if Is(name, "content-length") {
				if *lengths++; *lengths > 1 {
					return fault(TwoLengths)
				}
				var ok bool
				if h.Length, ok = Decimal(value); !ok {
					return fault(BadLength)
				}
			}
		case len("transfer-encoding"):
			if Is(name, "transfer-encoding") {
				if *codings++; *codings > 1 || !Is(value, "chunked") || h.Minor == 0 {
					return fault(BadEncoding)
				}
				h.Chunked = true
			}
		}
	}
	if h.Chunked && *lengths > 0 {
		return fault(BothFramed)
	}
	return nil
}

// options reads a value of Connection. One without the option "upgrade" still lets a server upgrade that is careless, so
// the option is not asked for.
func (h *Head) options(value []byte) {
	for len(value) > 0 {
		var option []byte
		option, value, _ = bytes.Cut(value, comma)
		switch option = trim(option); {
		case Is(option, "close"):
			h.Close = true
		case Is(option, "keep-alive"):
			h.KeepAlive = true
		}
	}
}

var comma = []byte{','}

// Persistent tells whether the connection can carry another message after this one, as far as its sender says.
func (h *Head) Persistent() bool {
	return !h.Close && (h.Minor == 1 || h.KeepAlive)
}

// Body is how the body of a message ends.
type Body int

// The ways.
const (
	NoBody  Body = iota
	Sized        // after Length bytes, more than 0
	Chunked      // with the last chunk
	ToEnd        // with the connection
	Switch       // not at all: another protocol begins
)

// RequestBody is how the request's body ends.
func (h *Head) RequestBody() Body {
	switch {
	case h.Chunked:
		return Chunked
	case h.Length > 0:
		return Sized
	}
	return NoBody
}

// ResponseBody is how the body of this response to a request with that method ends (RFC 9112, 6.3).
func (h *Head) ResponseBody(method string) Body {
	switch {
	case h.Status == 101, method == "CONNECT" && h.Status/100 == 2:
		return Switch
	case method == "HEAD", h.Status/100 == 1, h.Status == 204, h.Status == 304:
		return NoBody
	case h.Chunked:
		return Chunked
	case h.Length > 0:
		return Sized
	case h.Length == 0:
		return NoBody
	}
	return ToEnd
}
