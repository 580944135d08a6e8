package intercept

import (
	"bytes"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/hello"
)

// maxLine is how much of a first line is read to see whether it is a request's. A longer one that began like one is.
const maxLine = 16 << 10

// recognise says what a connection is by the first bytes its client sent. known is false while more are needed.
func recognise(b []byte) (p flow.Protocol, known bool) {
	switch {
	case len(b) == 0:
		return "", false
	case hello.Begins(b):
		return flow.TLS, len(b) >= 3
	}
	// Servers skip blank lines before a request, so do we here; what reads the head refuses more than one.
	for len(b) > 0 && (b[0] == '\r' || b[0] == '\n') && len(b) < maxLine {
		b = b[1:]
	}
	n := bytes.IndexByte(b, '\n')
	if n < 0 {
		return unfinished(b)
	}
	if isRequest(b[:n]) {
		return flow.HTTP, true
	}
	return flow.Opaque, true
}

// isRequest tells whether some server might take the line for that of an HTTP/1 request: by its version, since it decides
// that, and however careless the rest is. Whether it is a good one the parser says.
func isRequest(line []byte) bool {
	n := bytes.LastIndexAny(line, " \t")
	for n >= 0 && len(bytes.TrimSpace(line[n:])) == 0 { // space at the end
		line = line[:n]
		n = bytes.LastIndexAny(line, " \t")
	}
	if n <= 0 {
		return false
	}
	version := bytes.ToUpper(bytes.TrimSpace(line[n:]))
	return bytes.HasPrefix(version, []byte("HTTP/"))
}

// beginsHTTP2 tells the first line of HTTP/2's preface (RFC 9113, 3.4).
func beginsHTTP2(b []byte) bool { return bytes.HasPrefix(b, []byte("PRI * HTTP/2.0\r\n")) }

// unfinished judges a first line of which the end is missing.
func unfinished(b []byte) (flow.Protocol, bool) {
	word := b
	if n := bytes.IndexByte(b, ' '); n >= 0 {
		word = b[:n]
	}
	if len(word) > 64 {
		return flow.Opaque, true
	}
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\r' || c == 0x7f {
			return flow.Opaque, true
		}
	}
	if len(b) >= maxLine {
		return flow.HTTP, true
	}
	return "", false
}

// serverFirst are the ports on which servers speak first: FTP, SSH, SMTP, POP3, NNTP, IMAP, submission, MySQL, VNC.
var serverFirst = []uint16{21, 22, 25, 110, 119, 143, 587, 3306, 5900}
