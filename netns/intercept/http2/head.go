package http2

import (
	"bytes"

	"forefend.dev/forefend/netns/intercept/http1"
)

// The kinds of faults that HTTP/1 has not.
const (
	BadPseudo     http1.Kind = "pseudo-header"     // unknown, double, missing, or after other fields
	BadConnection http1.Kind = "connection-header" // what means one connection only
	BadTrailer    http1.Kind = "trailer"
	BadBody       http1.Kind = "length" // more or fewer bytes than Content-Length says
)

// Head is what the block of a request or a response says. Its slices are parts of the Block.
type Head struct {
	Method, Scheme, Authority, Path, Protocol []byte // Authority is the Host field where that alone is there
	Status                                    int    // of a response

	Fields []http1.Field // without pseudo-headers
	Length int64         // of Content-Length; -1: there is none
	GRPC   bool          // the content is a gRPC message

	seen  uint8 // pseudo-headers
	types int   // fields that say the content's
	host  []byte
}

func fault(k http1.Kind) error { return &http1.Fault{Kind: k} }

// pseudo-headers, as bits.
const (
	hasMethod uint8 = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol
	hasStatus
)

// ParseRequest reads a request's block. end tells that nothing follows. The error is an *http1.Fault.
func (h *Head) ParseRequest(b *Block, end bool) error {
	if err := h.parse(b.Fields); err != nil {
		return err
	}
	const plain = hasMethod | hasScheme | hasPath
	connect := string(h.Method) == "CONNECT"
	switch seen := h.seen &^ hasAuthority; {
	case len(h.Method) > http1.MaxMethod || !http1.IsToken(h.Method):
		return fault(BadPseudo)
	case connect && seen == hasMethod && h.seen&hasAuthority != 0: // RFC 9113, 8.5
	case connect && seen == plain|hasProtocol && h.seen&hasAuthority != 0 && http1.IsToken(h.Protocol): // RFC 8441, 4
	case seen != plain || connect:
		return fault(BadPseudo)
	case string(h.Scheme) != "http" && string(h.Scheme) != "https":
		return fault(http1.BadTarget)
	}
	if h.seen&hasPath != 0 && !(http1.IsTarget(h.Path) && (h.Path[0] == '/' || string(h.Path) == "*" && string(h.Method) == "OPTIONS")) {
		return fault(http1.BadTarget)
	}
	if h.host != nil {
		if h.seen&hasAuthority == 0 {
			h.Authority = h.host
		} else if !bytes.EqualFold(h.host, h.Authority) { // a careless server goes by the field
			return fault(http1.BadHost)
		}
	}
	if len(h.Authority) == 0 {
		return fault(http1.BadHost)
	}
	if h.types > 1 { // which one the server goes by is not known
		return fault(http1.BadValue)
	}
	if end && h.Length > 0 || connect && h.Length >= 0 {
		return fault(BadBody)
	}
	return nil
}

// ParseResponse reads a response's block, an informational one too. The error is an *http1.Fault.
func (h *Head) ParseResponse(b *Block) error {
	if err := h.parse(b.Fields); err != nil {
		return err
	}
	if h.seen != hasStatus || h.Status < 100 || h.Status == 101 {
		return fault(BadPseudo)
	}
	return nil
}

// ParseTrailers reads the block that ends a message. The error is an *http1.Fault.
func (h *Head) ParseTrailers(b *Block) error {
	if err := h.parse(b.Fields); err != nil {
		return err
	}
	if h.seen != 0 {
		return fault(BadTrailer)
	}
	return nil
}

func (h *Head) parse(fields []http1.Field) error {
	*h = Head{Length: -1}
	i := 0
	for ; i < len(fields) && len(fields[i].Name) > 0 && fields[i].Name[0] == ':'; i++ {
		if !h.pseudo(fields[i]) {
			return fault(BadPseudo)
		}
	}
	h.Fields = fields[i:]
	for _, f := range h.Fields {
		if !isName(f.Name) {
			return fault(http1.BadName) // a pseudo-header that comes late, too
		}
		if !isValue(f.Value) {
			return fault(http1.BadValue)
		}
		if err := h.known(f); err != nil {
			return err
		}
	}
	return nil
}

// pseudo takes a pseudo-header, and tells whether it may stand there.
func (h *Head) pseudo(f http1.Field) bool {
	var bit uint8
	var into *[]byte
	switch string(f.Name) {
	case ":method":
		bit, into = hasMethod, &h.Method
	case ":scheme":
		bit, into = hasScheme, &h.Scheme
	case ":authority":
		bit, into = hasAuthority, &h.Authority
	case ":path":
		bit, into = hasPath, &h.Path
	case ":protocol":
		bit, into = hasProtocol, &h.Protocol
	case ":status":
		if len(f.Value) != 3 || h.seen&hasStatus != 0 {
			return false
		}
		for _, c := range f.Value {
			if c < '0' || c > '9' {
				return false
			}
			h.Status = 10*h.Status + int(c-'0')
		}
		h.seen |= hasStatus
		return true
	default:
		return false
	}
	if h.seen&bit != 0 || !isValue(f.Value) {
		return false
	}
	h.seen |= bit
	*into = f.Value
	return true
}

// known looks at the fields that mean something to whoever relays.
func (h *Head) known(f http1.Field) error {
	switch len(f.Name) {
	case len("te"):
		if string(f.Name) == "te" && !http1.Is(f.Value, "trailers") {
			return fault(BadConnection)
		}
	case len("host"):
		if string(f.Name) == "host" {
			if h.host != nil {
				return fault(http1.BadHost)
			}
			h.host = f.Value
		}
	case len("upgrade"):
		if string(f.Name) == "upgrade" {
			return fault(BadConnection)
		}
	case len("connection"): // keep-alive has as many letters
		if string(f.Name) == "connection" || string(f.Name) == "keep-alive" {
			return fault(BadConnection)
		}
	case len("content-type"):
		if string(f.Name) == "content-type" {
			h.types++
			h.GRPC = isGRPC(f.Value)
		}
	case len("content-length"):
		if string(f.Name) == "content-length" {
			if h.Length >= 0 {
				return fault(http1.TwoLengths)
			}
			var ok bool
			if h.Length, ok = http1.Decimal(f.Value); !ok {
				return fault(http1.BadLength)
			}
		}
	case len("proxy-connection"):
		if string(f.Name) == "proxy-connection" {
			return fault(BadConnection)
		}
	case len("transfer-encoding"):
		if string(f.Name) == "transfer-encoding" {
			return fault(BadConnection)
		}
	}
	return nil
}

// isGRPC tells the media types of gRPC: application/grpc, with a suffix or parameters.
func isGRPC(value []byte) bool {
	const media = "application/grpc"
	if len(value) < len(media) || !http1.Is(value[:len(media)], media) {
		return false
	}
	rest := value[len(media):]
	return len(rest) == 0 || rest[0] == '+' || rest[0] == ';'
}

// names are the bytes that may be part of a field's name: those of tokens, without upper case (RFC 9113, 8.2.1).
var names = func() (t [256]bool) {
	for c := range t {
		t[c] = http1.IsToken([]byte{byte(c)}) && (c < 'A' || c > 'Z')
	}
	return t
}()

func isName(b []byte) bool {
	for _, c := range b {
		if !names[c] {
			return false
		}
	}
	return len(b) > 0
}

// isValue tells whether a value has no control characters, and no white space around it.
func isValue(b []byte) bool {
	n := len(b)
	return http1.IsText(b) && (n == 0 || b[0] != ' ' && b[0] != '\t' && b[n-1] != ' ' && b[n-1] != '\t')
}
