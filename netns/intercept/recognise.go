package intercept

import (
	"bytes"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/hello"
	"forefend.dev/forefend/netns/intercept/http1"
)

// maxLine is how much of a first line is read to see whether it is a request's. A longer one that began like one is.
const maxLine = 16 << 10

// recognise says what a connection is by the first bytes its client sent. known is false while more are needed. What some server might take
// for HTTP/1 is: in however many parts it comes, it must not be decided by its address alone.
func recognise(b []byte) (p flow.Protocol, known bool) {
	switch {
	case len(b) == 0:
		return "", false
	case hello.Begins(b):
		return flow.TLS, len(b) >= hello.Enough || len(b) >= 3 && b[1] == 3 // what comes slowly may be slower than partialWait
	}
	// Servers skip blank lines before a request, so do we here; what reads the head refuses more than one.
	line := b
	for len(line) > 0 && (line[0] == '\n' || separates(line[0])) {
		line = line[1:]
	}
	n := bytes.IndexByte(line, '\n')
	switch {
	case n < 0 && !begins(line):
		return flow.Opaque, true
	case n < 0 && len(b) < maxLine:
		return "", false
	case n < 0, isRequest(line[:n]):
		return flow.HTTP, true
	}
	return flow.Opaque, true
}

// separates tells what servers have seen between the words of a request's first line, the careless ones included: Python's http.server goes
// by all that is white space in Latin-1.
func separates(c byte) bool {
	switch c {
	case ' ', '\t', '\v', '\f', '\r', 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0:
		return true
	}
	return false
}

// isRequest tells whether some server might take the line for that of an HTTP/1 request: by its version, since it decides
// that, and however careless the rest is. Whether it is a good one the parser says.
func isRequest(line []byte) bool {
	for len(line) > 0 && separates(line[len(line)-1]) {
		line = line[:len(line)-1]
	}
	last := len(line)
	for last > 0 && !separates(line[last-1]) {
		last--
	}
	const version, whole = "http/", "http://"
	word := line[last:]
	switch {
	case last == 0:
		return false
	case len(word) >= len(version) && http1.Is(word[:len(version)], version):
		return true
	case !bytes.HasPrefix(line, []byte("GET")): // HTTP/0.9 has nothing else, and no version
		return false
	}
	for line = line[len("GET"):last]; len(line) > 0; line = line[1:] {
		if !separates(line[0]) {
			return false
		}
	}
	return word[0] == '/' || len(word) >= len(whole) && http1.Is(word[:len(whole)], whole)
}

// beginsHTTP2 tells the first line of HTTP/2's preface (RFC 9113, 3.4).
func beginsHTTP2(b []byte) bool { return bytes.HasPrefix(b, []byte("PRI * HTTP/2.0\r\n")) }

// begins tells whether a first line of which the end is missing may become a request's: by its first word, however long that is, and by what
// comes after it. Control characters end it where the word is no method as people write them, since binary protocols begin so (LDAP's
// first byte is a digit), and nowhere else: there are servers that do not mind them.
func begins(line []byte) bool {
	n := 0
	letters := true
	for ; n < len(line) && !separates(line[n]); n++ {
		c := line[n] | 0x20
		letters = letters && ('a' <= c && c <= 'z' || line[n] == '-')
	}
	switch word, rest := line[:n], line[n:]; {
	case n > 0 && !http1.IsToken(word), n >= maxLine:
		return false
	case letters && n >= len("GET"):
		return true
	default:
		for _, c := range rest {
			if c < ' ' && !separates(c) || c == 0x7f {
				return false
			}
		}
		return true
	}
}

// serverFirst are the ports on which servers speak first: FTP, SSH, SMTP, POP3, NNTP, IMAP, submission, MySQL, VNC.
var serverFirst = []uint16{21, 22, 25, 110, 119, 143, 587, 3306, 5900}
