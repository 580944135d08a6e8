package http1

import (
	"bytes"
	"cmp"
	"strconv"
)

// Authority is the host that a request asks for and its port, 0 where none is written: the target's where it names one,
// else the Host field's. host is a part of the head, without a root's dot and without brackets, its letters as they stand;
// it is empty where the request names none. The error is a *Fault.
func (h *Head) Authority() (host []byte, port uint16, err error) {
	target := h.Target
	switch {
	case string(h.Method) == "CONNECT":
		host, port, ok := SplitHost(target)
		if !ok || len(host) == 0 || port == 0 {
			return nil, 0, fault(BadTarget)
		}
		return host, port, nil
	case target[0] == '/', string(target) == "*" && string(h.Method) == "OPTIONS":
		host, port, ok := SplitHost(h.Host)
		if !ok {
			return nil, 0, fault(BadHost)
		}
		return host, port, nil
	}
	_, authority, ok := absolute(target)
	if !ok {
		return nil, 0, fault(BadTarget)
	}
	host, port, ok = SplitHost(authority)
	if !ok || len(host) == 0 {
		return nil, 0, fault(BadTarget)
	}
	// A server goes by the target (RFC 9112, 3.2.2), a careless one by the field: they have to agree.
	if h.Host != nil && !h.names(host, port) {
		return nil, 0, fault(BadHost)
	}
	return host, port, nil
}

// names tells whether the Host field has the same host and port as an absolute target. Java writes a scheme's own port into one of them
// alone, where somebody has written it.
func (h *Head) names(host []byte, port uint16) bool {
	field, other, ok := SplitHost(h.Host)
	own := uint16(80)
	if Is(h.Target[:len("https")], "https") {
		own = 443
	}
	return ok && bytes.EqualFold(field, host) && cmp.Or(other, own) == cmp.Or(port, own)
}

// absolute cuts a target such as http://example.com/path.
func absolute(target []byte) (path, authority []byte, ok bool) {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !Is(scheme, "http") && !Is(scheme, "https") {
		return nil, nil, false
	}
	if n := bytes.IndexAny(rest, "/?"); n >= 0 {
		return rest[n:], rest[:n], true
	}
	return nil, rest, true
}

// SplitHost cuts host and port, 0 where none is written, as Authority does. Users, empty ports and anything but the letters of names and addresses are refused.
func SplitHost(b []byte) (host []byte, port uint16, ok bool) {
	host = b
	if len(b) > 0 && b[0] == '[' {
		n := bytes.IndexByte(b, ']')
		if n < 0 || !all6(b[1:n]) {
			return nil, 0, false
		}
		if host, b = b[1:n], b[n+1:]; len(b) == 0 {
			return host, 0, true
		} else if b[0] != ':' {
			return nil, 0, false
		}
		b = b[1:]
	} else {
		n := bytes.IndexByte(b, ':')
		if n >= 0 {
			host, b = b[:n], b[n+1:]
		}
		for _, c := range host {
			if !isHost(c) {
				return nil, 0, false
			}
		}
		if len(host) > 1 && host[len(host)-1] == '.' { // the root's dot names the same host
			host = host[:len(host)-1]
		}
		if n < 0 {
			return host, 0, len(host) <= maxHost
		}
	}
	p, err := strconv.ParseUint(string(b), 10, 16)
	if err != nil || b[0] == '+' || len(host) == 0 || len(host) > maxHost {
		return nil, 0, false
	}
	return host, uint16(p), true
}

// maxHost is the longest name of a host.
const maxHost = 255

func isHost(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_'
}

func all6(b []byte) bool {
	for _, c := range b {
		if _, ok := hex(c); !ok && c != ':' && c != '.' {
			return false
		}
	}
	return len(b) > 1
}

// AppendPath appends the path that a request asks for, without query, in the one form that rules see: percent-encoded
// letters, digits, "-", ".", "_" and "~" decoded, other escapes in upper case, dot segments resolved (RFC 3986, 6.2.2). A
// CONNECT has none, an absolute target without one has "/". The request itself stays as it is.
func (h *Head) AppendPath(dst []byte) []byte {
	path := h.Target
	switch {
	case string(h.Method) == "CONNECT":
		return dst
	case path[0] != '/' && path[0] != '*':
		path, _, _ = absolute(path)
	}
	return AppendPath(dst, path)
}

// AppendPath appends the path of a target without authority in that form.
func AppendPath(dst, path []byte) []byte {
	if n := bytes.IndexByte(path, '?'); n >= 0 {
		path = path[:n]
	}
	if len(path) == 0 {
		return append(dst, '/')
	}
	if bytes.IndexByte(path, '%') < 0 && !bytes.Contains(path, []byte("/.")) {
		return append(dst, path...)
	}
	return appendClean(dst, path)
}

func appendClean(dst, path []byte) []byte {
	start := len(dst)
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			dst = append(dst, path[i])
			continue
		}
		high, ok1 := hex(path[i+1])
		low, ok2 := hex(path[i+2])
		if !ok1 || !ok2 {
			dst = append(dst, '%')
			continue
		}
		if c := byte(high<<4 | low); isHost(c) || c == '~' {
			dst = append(dst, c)
		} else {
			const digits = "0123456789ABCDEF"
			dst = append(dst, '%', digits[high], digits[low])
		}
		i += 2
	}
	return dst[:start+len(resolve(dst[start:]))]
}

// resolve removes the segments "." and ".." of an absolute path, in place (RFC 3986, 5.2.4).
func resolve(p []byte) []byte {
	if len(p) == 0 || p[0] != '/' {
		return p
	}
	out := p[:0]
	for rest := p; len(rest) > 0; {
		segment := rest[1:] // rest begins with a slash
		n := bytes.IndexByte(segment, '/')
		last := n < 0
		if last {
			n = len(segment)
		}
		segment, rest = segment[:n], rest[1+n:]
		switch string(segment) {
		case ".":
		case "..":
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
		default:
			out = append(append(out, '/'), segment...)
			continue
		}
		if last {
			out = append(out, '/')
		}
	}
	return out
}
