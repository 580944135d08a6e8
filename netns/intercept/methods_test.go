package intercept

import "testing"

// TestMethodsAsWritten: rules see methods in upper case, servers as they are written, and only HEAD has no body in its answer.
func TestMethodsAsWritten(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{FirstByte: patience})
	c := r.client()
	for range 2 {
		c.want("head /a HTTP/1.1\r\nHost: x\r\n\r\n", "GET", 200, "s head /a ")
	}
	for _, seen := range r.rules.contexts() {
		if seen.Method != "HEAD" {
			t.Errorf("rules see %q", seen.Method)
		}
	}
	r = newRig(t, h2cServer(t, named("s")), Limits{FirstByte: patience})
	f := r.framer()
	f.open(1, true, f.block(":method", "head", ":scheme", "http", ":authority", "h", ":path", "/a"))
	f.answer(1, "200")
	if n := f.body(1); n != len("s head /a ") {
		t.Errorf("%d bytes", n)
	}
}
