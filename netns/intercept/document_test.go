package intercept

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// TestContext: what requests say of themselves is understood as a document that travelled says.
func TestContext(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := certificate(t, "x")
	text, err := json.Marshal(document.Document{
		Base: flow.Context{Container: "c1", Workload: "job", Risk: 7}, Data: "internal",
		Tokens:      &document.Tokens{Headers: []string{"authorization"}, Keys: []document.TokenKey{{PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}},
		UserHeaders: []string{"x-user", "x-other"}, DataHeaders: []string{"x-data"},
		Mappings: []Mapping{
			{Host: "search.test", Method: "POST", Path: "/find", Operation: flow.Read},
			{Host: "*.bank.test", Data: "secret"}, {Host: "hook.test", Method: "GET", Operation: flow.Write},
		},
		Originate: []document.TLSHost{{Host: "api.test"}}, Roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})),
		Limits: &Limits{Connections: 3, FirstByte: patience},
	})
	if err != nil {
		t.Fatal(err)
	}
	var d document.Document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	s, err := SettingsOf(&d)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Originate) != 1 || s.originate("api.test") == nil || s.originate("x.api.test") != nil || orDefault(*s.Limits).Dial == 0 {
		t.Errorf("%+v", s)
	}
	token := func(user string, end time.Duration) string {
		signed, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": user, "exp": time.Now().Add(end).Unix()}).SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + signed
	}
	r := newRig(t, echo(t, "a"), Limits{})
	r.Set(s)
	c := r.client() // one connection: each request has an identity of its own
	for i, try := range []struct {
		request, headers string
		want             string // user, proof, data, operation, path
	}{
		{"GET /", "", "job workload internal read /"},
		{"GET /", "x-USER: bob", "bob claim internal read /"},
		{"DELETE /x/../y%7e", "X-Other: carl\r\nX-Data: Public", "carl claim public write /y~"},
		{"GET /", token("admin", time.Hour) + "\r\nX-User: bob", "admin token internal read /"},
		{"GET /", token("admin", -time.Hour) + "\r\nX-User: bob", "bob claim internal read /"},
		{"GET /", "Authorization: Basic eDp5\r\nX-Data: a\r\nX-Data: a", "job workload a read /"},
		{"GET /", token("eve", time.Hour), "eve token internal read /"},
		{"POST http://search.test/find?q=1", "", "job workload internal read /find"},
		{"POST http://search.test/other", "", "job workload internal write /other"},
		{"GET http://hook.test/", "", "job workload internal write /"},
		{"HEAD http://pay.bank.test/", "", "job workload secret read /"},
		{"GET http://bank.test/", "X-User:", "job workload internal read /"},
		{"GET http://pay.bank.test/", "X-Data: low", "job workload low read /"},
	} {
		method, target, _ := strings.Cut(try.request, " ")
		host := "h.test"
		if rest, ok := strings.CutPrefix(target, "http://"); ok {
			host, _, _ = strings.Cut(rest, "/")
		}
		headers := try.headers
		if headers != "" {
			headers += "\r\n"
		}
		c.want(fmt.Sprintf("%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", try.request, host, headers), method, 200, "")
		all := r.rules.contexts()
		x := all[len(all)-1]
		got := fmt.Sprintf("%s %s %s %s %s", x.User, x.UserProof, x.Data, x.Operation, x.Path)
		if got != try.want || x.Host != host || x.Method != method || x.Container != "c1" || x.Risk != 7 || x.Version != flow.Version {
			t.Errorf("request %d: %q, want %q\n%+v", i, got, try.want, x)
		}
	}
	for name, bad := range map[string]document.Document{
		"key":   {Tokens: &document.Tokens{Keys: []document.TokenKey{{ID: "x", PEM: "y"}}}},
		"roots": {Originate: []document.TLSHost{{Host: "h"}}},
	} {
		if _, err := SettingsOf(&bad); err == nil {
			t.Errorf("a document with bad %s is taken", name)
		}
	}
}
