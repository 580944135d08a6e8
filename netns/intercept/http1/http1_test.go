package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// parse reads a request's head as the interceptor does, and its body's framing.
func parse(b []byte) (*Head, []byte, error) {
	size, _ := End(b, 0)
	if size == 0 {
		return nil, nil, ErrShort
	}
	h := new(Head)
	return h, b[size:], h.ParseRequest(b[:size])
}

func kindOf(err error) Kind {
	var f *Fault
	if errors.As(err, &f) {
		return f.Kind
	}
	if err != nil {
		return Kind(err.Error())
	}
	return ""
}

func TestRequests(t *testing.T) {
	const rest = " HTTP/1.1\r\nHost: h\r\n"
	for text, want := range map[string]Kind{
		"GET /" + rest + "\r\n": "", "GET * HTTP/1.1\r\nHost: h\r\n\r\n": "", "GET / HTTP/1.0\r\n\r\n": "",
		"G\x00T /" + rest + "\r\n": BadLine, "GET /a b" + rest + "\r\n": BadLine, "GET /a#/../b" + rest + "\r\n": BadLine, " GET /" + rest + "\r\n": BadLine,
		"GET / HTTP/1.1 \r\nHost: h\r\n\r\n": BadLine, "GET /\r\nHost: h\r\n\r\n": BadLine, "GET / http/1.1\r\nHost: h\r\n\r\n": BadLine,
		strings.Repeat("A", 33) + " /" + rest + "\r\n": BadLine, "\r\nGET /" + rest + "\r\n": BadLine,
		"GET /" + rest + "A: b\n\r\n": BareLF, "GET / HTTP/1.1\nHost: h\r\n\r\n": BareLF,
		"GET /" + rest + " A: b\r\n\r\n": Folded, "GET /" + rest + "\tb\r\n\r\n": Folded,
		"GET /" + rest + "A\r\n\r\n": BadName, "GET /" + rest + ": b\r\n\r\n": BadName, "GET /" + rest + "A : b\r\n\r\n": BadName, "GET /" + rest + "A(: b\r\n\r\n": BadName,
		"GET /" + rest + "A: \x01\r\n\r\n": BadValue, "GET /" + rest + "A: b\rc: d\r\n\r\n": BadValue, "GET /" + rest + "A: \x7f\r\n\r\n": BadValue,
		"GET /" + rest + "A: \xe9 \t\r\n\r\n": "", "GET /" + rest + "A:\r\n\r\n": "",
		"GET /" + rest + "Content-Length: 1 \r\n\r\n": "", "GET /" + rest + "Content-Length: 1, 1\r\n\r\n": BadLength, "GET /" + rest + "Content-Length:\r\n\r\n": BadLength,
		"GET /" + rest + "Content-Length: 9999999999999999999\r\n\r\n": BadLength, "GET /" + rest + "Content-Length: 0x1\r\n\r\n": BadLength,
		"GET /" + rest + "content-length: 0\r\nCONTENT-LENGTH: 0\r\n\r\n": TwoLengths,
		"GET /" + rest + "Transfer-Encoding: Chunked\r\n\r\n":             "", "GET /" + rest + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": BadEncoding,
		"GET /" + rest + "Transfer-Encoding: identity\r\n\r\n": BadEncoding, "GET /" + rest + "Transfer-Encoding: \x0bchunked\r\n\r\n": BadValue,
		"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n":                     BadEncoding,
		"GET /" + rest + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n": BothFramed,
		"GET /" + rest + "Host: h\r\n\r\n":                                         BadHost, "GET / HTTP/1.1\r\n\r\n": BadHost,
		"CONNECT h:1" + rest + "Content-Length: 1\r\n\r\n":              BadLength,
		"GET /" + rest + strings.Repeat("A: b\r\n", MaxFields) + "\r\n": TooLarge,
	} {
		h, _, err := parse([]byte(text))
		if got := kindOf(err); got != want {
			t.Errorf("%.100q: %q, want %q", text, got, want)
		}
		if want == "" && h.Size != len(text) {
			t.Errorf("%.100q: %d bytes", text, h.Size)
		}
	}
}

func TestResponses(t *testing.T) {
	for text, want := range map[string]Body{
		"HTTP/1.1 200 OK\r\n\r\n": ToEnd, "HTTP/1.0 200 \r\n\r\n": ToEnd, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n": NoBody,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n": Sized, "HTTP/1.1 204 OK\r\nContent-Length: 5\r\n\r\n": NoBody,
		"HTTP/1.1 404 \xe4\r\nTransfer-Encoding: chunked\r\n\r\n": Chunked, "HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n": NoBody,
		"HTTP/1.1 101 S\r\n\r\n": Switch, "HTTP/1.1 103 H\r\n\r\n": NoBody,
		"HTTP/1.1 099 OK\r\n\r\n": -1, "HTTP/1.1 2000 OK\r\n\r\n": -1, "HTTP/2 200 OK\r\n\r\n": -1, "HTTP/1.1 2x0 OK\r\n\r\n": -1,
		"HTTP/1.1 200OK\r\n\r\n": -1, "HTTP/1.1  200 OK\r\n\r\n": -1, "HTTP/1.1 200 O\x00\r\n\r\n": -1, "\r\n\r\n": -1,
	} {
		var h Head
		err := h.ParseResponse([]byte(text))
		if (err != nil) != (want == -1) || err == nil && h.ResponseBody("GET") != want {
			t.Errorf("%q: %v, %v", text, h.ResponseBody("GET"), err)
		}
		if err == nil && h.ResponseBody("HEAD") != NoBody && want != Switch {
			t.Errorf("%q has a body after HEAD", text)
		}
	}
	h := Head{Status: 200, Length: 5}
	if h.ResponseBody("CONNECT") != Switch {
		t.Error("a tunnel is one")
	}
}

func TestPersistent(t *testing.T) {
	for fields, want := range map[string][2]bool{ // HTTP/1.0, 1.1
		"": {false, true}, "Connection: keep-alive\r\n": {true, true}, "Connection: x, CLOSE ,y\r\n": {false, false},
		"Connection: keep-alive\r\nConnection: close\r\n": {false, false}, "Connection: closed\r\n": {false, true},
	} {
		for minor, want := range want {
			h, _, err := parse([]byte("GET / HTTP/1." + string(rune('0'+minor)) + "\r\nHost: h\r\n" + fields + "\r\n"))
			if err != nil || h.Persistent() != want {
				t.Errorf("HTTP/1.%d %q: %v, %v", minor, fields, h.Persistent(), err)
			}
		}
	}
}

func TestAuthority(t *testing.T) {
	for line, want := range map[string]string{ // first line and Host -> host port path, or a fault
		"GET /a/b?c|H.example.":             "H.example 0 /a/b",
		"GET /|h:8080":                      "h 8080 /",
		"GET /|[::1]:80":                    "::1 80 /",
		"GET /|[fe80::1]":                   "fe80::1 0 /",
		"GET /|":                            " 0 /",
		"OPTIONS *|h":                       "h 0 *",
		"GET *|h":                           "target",
		"GET http://H:1/x?y|h:1":            "H 1 /x",
		"GET HTTP://h?y|h":                  "h 0 /",
		"GET https://h|h":                   "h 0 /",
		"GET http://h/|g":                   "host",
		"GET http://h:80/|h":                "h 80 /",
		"GET http://h/|H.:80":               "h 0 /",
		"GET https://h:443/|h":              "h 443 /",
		"GET https://h:80/|h":               "host",
		"GET http://h:81/|h":                "host",
		"GET http://h/|h:x":                 "host",
		"GET ftp://h/|h":                    "target",
		"GET http:///|":                     "target",
		"GET h|h":                           "target",
		"CONNECT h:443|x":                   "h 443 ",
		"CONNECT h|h":                       "target",
		"CONNECT :443|h":                    "target",
		"GET /|u@h":                         "host",
		"GET /|h:":                          "host",
		"GET /|h:+1":                        "host",
		"GET /|h:65536":                     "host",
		"GET /|h/x":                         "host",
		"GET /|:80":                         "host",
		"GET /|[::1":                        "host",
		"GET /|[::1]x":                      "host",
		"GET /|[::1]:":                      "host",
		"GET /|[x]":                         "host",
		"GET /|a,b":                         "host",
		"GET /|" + strings.Repeat("a", 256): "host",
		"GET /%61%2f%2F%zz%4|h":             "h 0 /a%2F%2F%zz%4",
		"GET /a/./b/../c/..|h":              "h 0 /a/",
		"GET /../../x|h":                    "h 0 /x",
		"GET /%2e%2E/adm%69n|h":             "h 0 /admin",
		"GET /a/.|h":                        "h 0 /a/",
		"GET /.a/..b/c.|h":                  "h 0 /.a/..b/c.",
		"GET //a//b|h":                      "h 0 //a//b",
		"GET http://h/%7Euser/%c3%a9/..?x=/../../y|h": "h 0 /~user/",
	} {
		target, host, _ := strings.Cut(line, "|")
		h, _, err := parse([]byte(target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got := ""
		if name, port, err := h.Authority(); err != nil {
			got = string(kindOf(err))
		} else {
			got = string(name) + " " + itoa(port) + " " + string(h.AppendPath(nil))
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func itoa(n uint16) string {
	if n == 0 {
		return "0"
	}
	s := ""
	for ; n > 0; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return s
}

// TestEnd: wherever a head is cut, its end is found once it is there, and not before.
func TestEnd(t *testing.T) {
	for _, head := range []string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET /\nA: b\n\n", "a\r\n\n", "a\n\r\n"} {
		resume := 0
		for n := range len(head) {
			var size int
			if size, resume = End([]byte(head[:n]), resume); size != 0 {
				t.Errorf("%q ends at %d", head[:n], size)
			}
		}
		if size, _ := End([]byte(head+"more\r\n\r\n"), resume); size != len(head) {
			t.Errorf("%q: %d", head, size)
		}
	}
}

func chunks(b []byte, step int) (n int, done bool, err error) {
	var c Chunks
	for n < len(b) && !done && err == nil {
		var m int
		m, done, err = c.Feed(b[n:min(len(b), n+step)])
		n += m
	}
	return n, done, err
}

func TestChunks(t *testing.T) {
	for body, good := range map[string]bool{
		"0\r\n\r\n": true, "5\r\nhello\r\n0\r\n\r\n": true, "5;a=\"b\"\r\nhello\r\n00\r\nA: b\r\nC:\r\n\r\n": true, "A \t\r\n0123456789\r\n0 ;x\r\n\r\n": true,
		"\r\n": false, "g\r\n": false, "0x5\r\n": false, "-1\r\n": false, "5\nhello\r\n0\r\n\r\n": false, "5\r\nhello0\r\n\r\n": false,
		"5\r\nhello\n0\r\n\r\n": false, "0\r\n\n": false, "0\r\nA\r\n\r\n": false, "0\r\n b: c\r\n\r\n": false, "0\r\n: c\r\n\r\n": false,
		"fffffffffffffffff\r\n": false, "1000000000000000\r\n": false, "5\r\rhello": false, "5 5\r\n": false, "0\r\nA: \x00\r\n\r\n": false,
		"1;" + strings.Repeat("x", maxSizeLine) + "\r\nx\r\n0\r\n\r\n": false, "1" + strings.Repeat(" ", maxSizeLine) + "\r\nx\r\n0\r\n\r\n": false,
		"0\r\n" + strings.Repeat("A: b\r\n", maxTrailers/6+2) + "\r\n": false, "0\r\n" + strings.Repeat("A:\r\n", maxTrailers/4+2) + "\r\n": false,
	} {
		for _, step := range []int{1, 2, 3, 7, 1 << 20} {
			n, done, err := chunks([]byte(body+"next"), step)
			if done != good || (err == nil) != good || good && n != len(body) {
				t.Errorf("%.40q by %d: %d, %v, %v", body, step, n, done, err)
			}
		}
	}
	var c Chunks
	if _, _, err := c.Feed([]byte("fffff\r\n")); err != nil || c.Left() != 0xfffff {
		t.Error(c.Left(), err)
	}
	c.Skip(0xfffff)
	if n, done, err := c.Feed([]byte("\r\n0\r\n\r\nx")); n != 7 || !done || err != nil || c.Left() != 0 {
		t.Error(n, done, err)
	}
}

// FuzzRequest compares with net/http: what is accepted here means the same there.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST http://h:1/a?b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: x\r\n\r\nGET", "OPTIONS * HTTP/1.0\r\nConnection: close\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "GET /%2e/../a HTTP/1.1\r\nHost: [::1]:8\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := parse(b)
		if err != nil {
			return
		}
		host, _, err := h.Authority()
		path := h.AppendPath(nil)
		if err != nil {
			return
		}
		if bytes.ContainsAny(path, "?#\r\n ") || len(path) > 0 && path[0] != '/' && path[0] != '*' {
			t.Errorf("path %q", path)
		}
		if again := appendClean(nil, path); len(path) > 0 && path[0] == '/' && !bytes.Contains(path, []byte("%25")) && !bytes.Equal(again, path) {
			t.Errorf("path %q becomes %q", path, again)
		}
		r := bufio.NewReader(bytes.NewReader(b))
		req, err := http.ReadRequest(r)
		if err != nil {
			return // it is stricter about what it does not relay, such as URLs
		}
		if req.Method != string(h.Method) || req.RequestURI != string(h.Target) || req.ProtoMinor != h.Minor {
			t.Errorf("first line: %+v, %+v", req, h)
		}
		if name := strings.TrimSuffix(req.URL.Hostname(), "."); req.URL.Host != "" && !strings.EqualFold(name, string(host)) {
			t.Errorf("host %q, %q", req.Host, host)
		}
		body, err := io.ReadAll(req.Body)
		switch h.RequestBody() {
		case NoBody:
			if len(body) > 0 {
				t.Errorf("body %q", body)
			}
		case Sized:
			if n := min(int64(len(rest)), h.Length); int64(len(body)) != n {
				t.Errorf("%d bytes, want %d", len(body), n)
			}
		case Chunked:
			n, done, fault := chunks(rest, 1+len(rest)/2)
			if done && fault == nil && err != nil {
				t.Errorf("net/http: %v", err)
			}
			if left, _ := io.ReadAll(r); done && fault == nil && err == nil && !bytes.Equal(left, rest[n:]) {
				t.Errorf("%q is left, here %q", left, rest[n:])
			}
		}
	})
}

// FuzzChunks: however a body is cut, the result is the same; and what is accepted net/http decodes, to the same end.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "3\r\nabc\r\n0\r\nA: b\r\n\r\nGET", "a;b=c \r\n0123456789\r\n0\r\n\r\n"} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		step = max(1, step%100)
		n, done, err := chunks(b, step)
		n2, done2, err2 := chunks(b, len(b)+1)
		if n != n2 || done != done2 || (err == nil) != (err2 == nil) {
			t.Fatalf("by %d: %d, %v, %v; at once: %d, %v, %v", step, n, done, err, n2, done2, err2)
		}
		if !done {
			return
		}
		r := bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b)))
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(req.Body); err != nil {
			return // it checks trailers' names
		}
		if left, _ := io.ReadAll(r); !bytes.Equal(left, b[n:]) {
			t.Errorf("%q is left, here %q", left, b[n:])
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	head := []byte("GET /index.html?x=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-User: admin\r\nX-Data-Class: public\r\nAccept-Encoding: gzip\r\n\r\n")
	var h Head
	b.ReportAllocs()
	for b.Loop() {
		size, _ := End(head, 0)
		if h.ParseRequest(head[:size]) != nil {
			b.Fatal()
		}
	}
}
