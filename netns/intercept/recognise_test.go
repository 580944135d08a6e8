package intercept

import (
	"encoding/binary"
	"strings"
	"testing"

	"forefend.dev/forefend/netns/flow"
)

// TestRecognise: what a server would take for HTTP or TLS is that in however many parts it comes, and what is neither is known soon.
func TestRecognise(t *testing.T) {
	for name, c := range map[string]struct {
		first string
		want  flow.Protocol // "": more is needed
	}{
		"a request":                              {"GET / HTTP/1.1\r\n", flow.HTTP},
		"blank lines before it":                  {"\r\n\n\r\nGET / HTTP/1.1\r\n", flow.HTTP},
		"a blank line and as much as is read":    {"\r\nGET / HTTP/1.1\r\nA: " + strings.Repeat("a", maxLine-21), flow.HTTP},
		"blank lines without end":                {strings.Repeat("\r\n", maxLine/2), flow.HTTP},
		"some of them":                           {"\r\n", ""},
		"a long method, split":                   {strings.Repeat("A", 200), ""},
		"one that no server takes":               {strings.Repeat("A", maxLine), flow.Opaque},
		"a long target, split":                   {"GET /" + strings.Repeat("a", 9000), ""},
		"one without end":                        {"GET /" + strings.Repeat("a", maxLine), flow.HTTP},
		"a control character in it":              {"GET /a?\x01", ""},
		"in a method of letters only":            {"AB /\x01", flow.Opaque},
		"Python's white space":                   {"GET\v/\xa0HTTP/1.1\r\n", flow.HTTP},
		"split":                                  {"GET\x1c/", ""},
		"white space around it":                  {" GET / HTTP/1.1 \x85\r\n", flow.HTTP},
		"a version in lower case":                {"GET / http/1.1\r\n", flow.HTTP},
		"HTTP/0.9":                               {"GET /secret\r\n", flow.HTTP},
		"of a whole address":                     {"GET \t HTTP://h/ \n", flow.HTTP},
		"a word that is like it":                 {"GETS /secret\r\n", flow.Opaque},
		"a key of Redis":                         {"GET key\r\n", flow.Opaque},
		"a line of a log":                        {"<14>1 web: \"GET / HTTP/1.1\" 200\r\n", flow.Opaque},
		"a word":                                 {"PING\r\n", flow.Opaque},
		"no word":                                {"\r\n \r\n", ""},
		"text in braces":                         {`{"log": "`, flow.Opaque},
		"LDAP":                                   {"0\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", flow.Opaque},
		"LDAP, another length":                   {"0\x1d\x02\x01\x01\x60\x18", flow.Opaque},
		"AMQP":                                   {"AMQP\x00\x00\x09\x01", flow.Opaque},
		"git":                                    {"0032git-upload-pack /project.git\x00host=h\x00", flow.Opaque},
		"PostgreSQL":                             {"\x00\x00\x00\x08\x04\xd2\x16\x2f", flow.Opaque},
		"MQTT":                                   {"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", flow.Opaque},
		"HL7":                                    {"\x0bMSH|^~\\&|A|B\rPID", flow.Opaque},
		"TLS":                                    {"\x16\x03\x01", flow.TLS},
		"of another version":                     {"\x16\x03\xff\x02\x00\x01", flow.TLS},
		"of one that Go's servers take":          {"\x16\x0f\x00\x02\x00\x01", flow.TLS},
		"that, split":                            {"\x16\x0f\x00\x02\x00", ""},
		"of one that none takes":                 {"\x16\x10\x00\x02\x00\x01", flow.Opaque},
		"an empty record of it":                  {"\x16\x03\x01\x00\x00\x16", flow.TLS},
		"790 bytes of MongoDB":                   {string(binary.LittleEndian.AppendUint32(nil, 790)) + "\x01\x00\x00\x00", flow.Opaque},
		"22 bytes of something with their count": {string(binary.LittleEndian.AppendUint32(nil, 22)) + "12345678", flow.Opaque},
	} {
		p, known := recognise([]byte(c.first))
		if !known {
			p = ""
		}
		if p != c.want {
			t.Errorf("%s: %q, want %q", name, p, c.want)
		}
	}
}

// TestHiddenRequests: a request that servers answer is decided as one, whatever comes before it.
func TestHiddenRequests(t *testing.T) {
	for name, text := range map[string]string{
		"behind a blank line":  "\r\nGET /secret HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 20000) + "\r\n\r\n",
		"between other spaces": "GET\v/secret\vHTTP/1.1\r\nHost: h\r\n\r\n",
		"without a version":    "GET /secret\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, server(t, func(c *client) {
				if b, err := c.r.Peek(1); err == nil {
					t.Errorf("the server got %q", b)
				}
			}), Limits{})
			r.rules.set(func(c flow.Context) (flow.Decision, error) {
				if c.Path == "/secret" {
					return deny("secret", ""), nil
				}
				return endpoint(""), nil
			})
			c := r.client()
			c.send(text)
			if resp, body := c.response("GET"); resp.StatusCode != 403 && resp.StatusCode != 400 {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		})
	}
}
