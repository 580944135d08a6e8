package http2

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"forefend.dev/forefend/netns/intercept/http1"
)

// encode writes a block as a client without a table does; pairs are names and values.
func encode(pairs ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.Bytes()
}

func kindOf(err error) http1.Kind {
	var f *http1.Fault
	switch {
	case errors.As(err, &f):
		return f.Kind
	case err != nil:
		return http1.Kind(err.Error())
	}
	return ""
}

var request = []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/"}

func TestRequests(t *testing.T) {
	with := func(more ...string) []string { return append(append([]string{}, request...), more...) }
	for _, c := range []struct {
		want http1.Kind
		in   []string
	}{
		{"", request},
		{"", with("te", "trailers", "cookie", "a=b", "cookie", "c=d", "x", "")},
		{"", with("host", "H")},
		{"", []string{":method", "GET", ":scheme", "https", ":path", "/x?y", "host", "h"}},
		{"", []string{":method", "OPTIONS", ":scheme", "http", ":authority", "h", ":path", "*"}},
		{"", []string{":method", "CONNECT", ":authority", "h:1"}},
		{"", []string{":method", "CONNECT", ":scheme", "http", ":authority", "h", ":path", "/chat", ":protocol", "websocket"}},
		{http1.BadHost, with("host", "i")},
		{http1.BadHost, with("host", "h", "host", "h")},
		{http1.BadHost, []string{":method", "GET", ":scheme", "http", ":path", "/"}},
		{http1.BadHost, []string{":method", "GET", ":scheme", "http", ":authority", "", ":path", "/"}},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", ""}},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "x"}},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/a b"}},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "ftp", ":authority", "h", ":path", "/"}},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "*"}},
		{BadPseudo, []string{":method", "GET", ":scheme", "http", ":authority", "h"}},
		{BadPseudo, []string{":scheme", "http", ":authority", "h", ":path", "/"}},
		{BadPseudo, []string{":method", "G T", ":scheme", "http", ":authority", "h", ":path", "/"}},
		{BadPseudo, []string{":method", "", ":scheme", "http", ":authority", "h", ":path", "/"}},
		{BadPseudo, []string{":method", "CONNECT", ":authority", "h:1", ":path", "/"}},
		{BadPseudo, []string{":method", "CONNECT", ":scheme", "http", ":authority", "h", ":path", "/"}},
		{BadPseudo, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/", ":protocol", "websocket"}},
		{BadPseudo, with(":path", "/")},
		{BadPseudo, with(":status", "200")},
		{BadPseudo, with(":other", "x")},
		{http1.BadName, append([]string{"x", "y"}, request...)},
		{http1.BadName, with("X", "y")},
		{http1.BadName, with("", "y")},
		{http1.BadName, with("a b", "y")},
		{http1.BadName, with("a:", "y")},
		{http1.BadValue, with("a", "x\ny")},
		{http1.BadValue, with("a", "x\x00")},
		{http1.BadValue, with("a", " x")},
		{http1.BadValue, with("a", "x\t")},
		{http1.BadValue, with("content-type", "a/b", "content-type", "application/grpc")},
		{http1.BadTarget, []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/a#/../b"}},
		{BadConnection, with("connection", "close")},
		{BadConnection, with("keep-alive", "1")},
		{BadConnection, with("proxy-connection", "x")},
		{BadConnection, with("transfer-encoding", "chunked")},
		{BadConnection, with("upgrade", "h2c")},
		{BadConnection, with("te", "trailers, deflate")},
		{http1.TwoLengths, with("content-length", "1", "content-length", "1")},
		{http1.BadLength, with("content-length", "+1")},
		{BadBody, with("content-length", "1")}, // and nothing follows
		{BadBody, []string{":method", "CONNECT", ":authority", "h:1", "content-length", "0"}},
	} {
		var b Block
		var h Head
		err := NewDecoder().Read(&b, encode(c.in...))
		if err == nil {
			err = h.ParseRequest(&b, true)
		}
		if got := kindOf(err); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		want http1.Kind
		in   []string
	}{
		{"", []string{":status", "200", "content-length", "5"}},
		{"", []string{":status", "103"}},
		{"", []string{":status", "200", "content-type", "a/b", "content-type", "a/b"}},
		{BadPseudo, []string{":status", "101"}},
		{BadPseudo, []string{":status", "20"}},
		{BadPseudo, []string{":status", "2x0"}},
		{BadPseudo, []string{":status", "099"}},
		{BadPseudo, []string{":status", "200", ":status", "200"}},
		{BadPseudo, []string{":status", "200", ":path", "/"}},
		{BadPseudo, []string{"x", "y"}},
		{BadConnection, []string{":status", "200", "connection", "close"}},
	} {
		var b Block
		var h Head
		err := NewDecoder().Read(&b, encode(c.in...))
		if err == nil {
			err = h.ParseResponse(&b)
		}
		if got := kindOf(err); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	var b Block
	var h Head
	must(t, NewDecoder().Read(&b, encode("grpc-status", "0")))
	must(t, h.ParseTrailers(&b))
	must(t, NewDecoder().Read(&b, encode(":status", "200")))
	if got := kindOf(h.ParseTrailers(&b)); got != BadTrailer {
		t.Errorf("a pseudo-header in trailers: %q", got)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTable: a client's table is followed until it has none, and what refers to it is written anew.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	e := hpack.NewEncoder(&out)
	d := NewDecoder()
	read := func(pairs ...string) *Block {
		t.Helper()
		out.Reset()
		for i := 0; i < len(pairs); i += 2 {
			must(t, e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
		}
		b := new(Block)
		must(t, d.Read(b, bytes.Clone(out.Bytes())))
		for i, f := range b.Fields {
			if string(f.Name) != pairs[2*i] || string(f.Value) != pairs[2*i+1] {
				t.Errorf("%s: %s, want %q", f.Name, f.Value, pairs)
			}
		}
		if anew := b.AppendFields(nil); !b.Stateless {
			again, err := hpack.NewDecoder(0, nil).DecodeFull(anew)
			if err != nil || len(again) != len(b.Fields) || again[0].Value != pairs[1] {
				t.Errorf("written anew: %v, %v", again, err)
			}
		}
		return b
	}
	if b := read("x-long-name", strings.Repeat("v", 300), "a", "b"); !b.Stateless || b.Again {
		t.Errorf("what enters a table: %+v", b)
	}
	if b := read("x-long-name", strings.Repeat("v", 300)); b.Stateless || b.Again {
		t.Errorf("what refers to it: %+v", b)
	}
	for i := range 200 { // more than fits
		read("x-n", strings.Repeat("n", 50+i), "x-m", strings.Repeat("m", i))
	}
	if d.used > defaultTable {
		t.Errorf("a table of %d bytes", d.used)
	}
	e.SetMaxDynamicTableSize(100)
	e.SetMaxDynamicTableSize(defaultTable)
	if b := read("a", "b"); b.Prefix != 5 || len(d.table) != 1 { // the smallest in between, and the last (RFC 7541, 4.2)
		t.Errorf("smaller and larger again: %+v, %d entries", b, len(d.table))
	}
	d.Agreed()
	e.SetMaxDynamicTableSize(0)
	if b := read("a", "b", ":method", "GET"); !b.Stateless || b.Prefix != 1 || b.Again || len(d.table) > 0 {
		t.Errorf("after its end: %+v", b)
	}
	if b := read("a", "b"); !b.Stateless || b.Prefix != 0 || !b.Again {
		t.Errorf("without a table: %+v", b)
	}
}

func TestBadBlocks(t *testing.T) {
	agreed := NewDecoder()
	agreed.Agreed()
	for name, c := range map[string]struct {
		d *Decoder
		b string
	}{
		"index 0":                {NewDecoder(), "\x80"},
		"index of nothing":       {NewDecoder(), "\xbe"},
		"a number too large":     {NewDecoder(), "\xff\xff\xff\xff\xff\xff\x01"},
		"half a number":          {NewDecoder(), "\xff"},
		"half a text":            {NewDecoder(), "\x00\x05abc"},
		"no value":               {NewDecoder(), "\x00\x01a"},
		"size in the middle":     {NewDecoder(), "\x82\x20"},
		"size over the limit":    {agreed, "\x21"},
		"size over the first":    {NewDecoder(), "\x3f\xe2\x1f"},
		"Huffman's end of text":  {NewDecoder(), "\x00\x84\xff\xff\xff\xff\x01a"},
		"Huffman padding, long":  {NewDecoder(), "\x00\x82\x1f\xff\x01a"},
		"Huffman padding, zeros": {NewDecoder(), "\x00\x81\x18\x01a"},
	} {
		if err := c.d.Read(new(Block), []byte(c.b)); !errors.Is(err, ErrCompression) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := bytes.Repeat([]byte{0x82}, http1.MaxFields+1)
	if got := kindOf(NewDecoder().Read(new(Block), many)); got != http1.TooLarge {
		t.Errorf("many fields: %q", got)
	}
	// A bomb: a field of the table that is named over and over.
	bomb := append([]byte("\x40\x01a\x7f\xa0\x1e"), bytes.Repeat([]byte{'v'}, 127+0xf20)...)
	bomb = append(bomb, bytes.Repeat([]byte{0xbe}, 60000)...)
	if got := kindOf(NewDecoder().Read(new(Block), bomb)); got != http1.TooLarge {
		t.Errorf("a bomb: %q", got)
	}
}

// TestHuffman: all texts come back.
func TestHuffman(t *testing.T) {
	for c := range 256 {
		text := strings.Repeat(string([]byte{byte(c)}), c%9+1) + "tail"
		got, ok := appendHuffman(nil, hpack.AppendHuffmanString(nil, text))
		if !ok || string(got) != text {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
}

func TestAppendBlock(t *testing.T) {
	block := bytes.Repeat([]byte{'x'}, 3*MaxPayload)
	b := AppendBlock(nil, 7, NoTable, block, true)
	var got []byte
	for first := true; len(b) > 0; first = false {
		f := Parse(b)
		if f.Stream != 7 || f.Length > MaxPayload || (f.Type == Headers) != first || first && !f.Has(EndStream) || f.Has(EndHeaders) != (len(b) == FrameHeader+f.Length) {
			t.Fatalf("%+v", f)
		}
		got = append(got, b[FrameHeader:FrameHeader+f.Length]...)
		b = b[FrameHeader+f.Length:]
	}
	if !bytes.Equal(got, append([]byte{0x20}, block...)) {
		t.Error("the block changed")
	}
}

// FuzzBlock compares with hpack what is read, and what is written anew.
func FuzzBlock(f *testing.F) {
	f.Add(encode(request...), encode("x", "y"), false)
	f.Add([]byte("\x40\x01a\x01b\xbe"), []byte("\xbe\x20"), true)
	f.Add([]byte("\x3f\xe1\x1f\x82"), []byte("\x20\x82"), true)
	f.Fuzz(func(t *testing.T, one, two []byte, agreed bool) {
		d, peer := NewDecoder(), hpack.NewDecoder(defaultTable, nil)
		for i, p := range [][]byte{one, two} {
			if i == 1 && agreed {
				d.Agreed()
				peer.SetAllowedMaxDynamicTableSize(0)
			}
			var b Block
			err := d.Read(&b, p)
			want, peerErr := full(peer, p)
			if errors.Is(err, ErrCompression) {
				return // stricter it may be
			}
			if peerErr != nil {
				t.Fatalf("%q is taken, but %v", p, peerErr)
			}
			if err != nil {
				continue
			}
			same(t, b.Fields, want)
			rest := p[b.Prefix:]
			if !b.Stateless {
				rest = b.AppendFields(nil)
			}
			anew, err := hpack.NewDecoder(0, nil).DecodeFull(rest)
			if err != nil {
				t.Fatalf("%q cannot be sent on: %v", p, err)
			}
			same(t, b.Fields, anew)
			var h Head
			if h.ParseRequest(&b, true) == nil {
				check(t, &h, &b)
			}
			_, _ = h.ParseResponse(&b), h.ParseTrailers(&b)
		}
	})
}

// full reads a whole block with each change of the table's size as a block of its own: hpack takes one at the beginning of a block where its
// table has something in it, while two are allowed there (RFC 7541, 4.2).
func full(peer *hpack.Decoder, p []byte) ([]hpack.HeaderField, error) {
	for len(p) > 0 && p[0]>>5 == 1 {
		_, rest, ok := integer(p, 5)
		if !ok {
			break
		}
		if _, err := peer.DecodeFull(p[:len(p)-len(rest)]); err != nil {
			return nil, err
		}
		p = rest
	}
	return peer.DecodeFull(p)
}

func same(t *testing.T, got []http1.Field, want []hpack.HeaderField) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d fields, want %d", len(got), len(want))
	}
	for i, f := range got {
		if string(f.Name) != want[i].Name || string(f.Value) != want[i].Value {
			t.Fatalf("%q: %q, want %+v", f.Name, f.Value, want[i])
		}
	}
}

// check holds what every request that is taken has in common.
func check(t *testing.T, h *Head, b *Block) {
	t.Helper()
	seen := map[string]int{}
	regular := false
	for _, f := range b.Fields {
		name := string(f.Name)
		seen[name]++
		if strings.HasPrefix(name, ":") && regular || name != strings.ToLower(name) || bytes.ContainsAny(f.Value, "\r\n\x00") {
			t.Fatalf("%q: %q is taken", f.Name, f.Value)
		}
		regular = regular || !strings.HasPrefix(name, ":")
	}
	for _, once := range []string{":method", ":path", ":authority", ":scheme", "host", "content-length"} {
		if seen[once] > 1 {
			t.Fatalf("%d times %s", seen[once], once)
		}
	}
	if seen["connection"]+seen["transfer-encoding"]+seen["upgrade"] > 0 || len(h.Authority) == 0 || seen[":method"] == 0 {
		t.Fatalf("taken: %q", b.Fields)
	}
}

func BenchmarkRequest(b *testing.B) {
	block := encode(append(append([]string{}, request...), "user-agent", "grpc-go/1.83.2", "content-type", "application/grpc", "te", "trailers", "grpc-timeout", "999m", "authorization", "Bearer x")...)
	d := NewDecoder()
	var blk Block
	var h Head
	b.ReportAllocs()
	for b.Loop() {
		if d.Read(&blk, block) != nil || h.ParseRequest(&blk, false) != nil {
			b.Fatal("not read")
		}
	}
}

// FuzzFrames: what is read of frames stays within them, and their headers come back.
func FuzzFrames(f *testing.F) {
	f.Add(AppendSettings(nil, Parameter{InitialWindowSize, 1}), true)
	f.Add(AppendBlock(nil, 1, nil, encode(request...), true), false)
	f.Add([]byte("\x00\x00\x06\x01\x28\x00\x00\x00\x01\x01\x00\x00\x00\x01\x00"), false)
	f.Fuzz(func(t *testing.T, b []byte, own bool) {
		for len(b) >= FrameHeader {
			frame := Parse(b)
			again := Parse(frame.Append(nil))
			if again != frame {
				t.Fatalf("%+v became %+v", frame, again)
			}
			p := b[FrameHeader:min(len(b), FrameHeader+frame.Length)]
			if rest, ok := frame.Unpad(p); ok && len(rest) > len(p) {
				t.Fatalf("%d bytes of %d", len(rest), len(p))
			}
			_, _ = frame.DependsOn(p)
			var kept []Parameter
			code := EachSetting(p, func(p Parameter) Code { kept = append(kept, p); return NoError })
			if code == NoError && own && !bytes.Equal(AppendSettings(nil, kept...)[FrameHeader:], p) {
				t.Fatalf("settings %+v of %q", kept, p)
			}
			b = b[FrameHeader+len(p):]
		}
	})
}
