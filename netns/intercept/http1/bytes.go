package http1

import "bytes"

// cutLine takes the first line from b. A head ends in a blank line, so there is one.
func cutLine(b []byte) (line, rest []byte, err error) {
	n := bytes.IndexByte(b, '\n')
	if n < 1 || b[n-1] != '\r' {
		return nil, nil, fault(BareLF)
	}
	return b[:n-1], b[n+1:], nil
}

// Is compares a name with one in lower case, as names are compared: without case.
func Is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// class says what a byte may be part of.
type class uint8

const (
	token  class = 1 << iota // tchar of RFC 9110, 5.6.2
	text                     // of a field's value: all but control characters, with the tab
	target                   // of a request's target: all but control characters, the space, and what begins a fragment, of which servers think differently
)

var classes = func() (t [256]class) {
	for c := range t {
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= text
		}
		if c > ' ' && c != 0x7f && c != '#' {
			t[c] |= target
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] |= token
	}
	return t
}()

func all(b []byte, of class) bool {
	for _, c := range b {
		if classes[c]&of == 0 {
			return false
		}
	}
	return true
}

// IsToken tells a token, as names and methods are.
func IsToken(b []byte) bool { return len(b) > 0 && all(b, token) }

// IsTarget tells what a request's target may be made of.
func IsTarget(b []byte) bool { return len(b) > 0 && all(b, target) }

// IsText tells what a field's value may be made of.
func IsText(b []byte) bool { return all(b, text) }

// trim removes the optional white space around a value.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// maxDigits keeps lengths below 10^18 bytes, far from where an int64 ends.
const maxDigits = 18

// Decimal reads a length in bytes.
func Decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > maxDigits {
		return -1, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}
