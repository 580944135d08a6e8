package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/intercept/document"
)

// Rules without any tunnel would close every container for good: it is said what to write.
func TestRulesWithoutATunnel(t *testing.T) {
	c := &config.Config{Path: "/etc/forefend/config.toml", Egress: config.Egress{Rules: "/etc/forefend/rules"}}
	err := newEgress(c).Release(t.Context(), 1)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/etc/forefend/config.toml has egress rules and no way out: write a [[tunnel]]") {
		t.Error(err)
	}
	if e := newEgress(&config.Config{}); e != nil {
		t.Errorf("without rules and tunnels there is %T", e)
	}
}

// TestSettings: what the configuration says arrives at an interceptor, all of it.
func TestSettings(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Interception{
		UserHeaders: []string{"x-user"}, DataHeaders: []string{"x-data"}, Connections: 7, DecideWithin: time.Second, ServerFirst: []int{2525},
		Tokens:   config.Tokens{Headers: []string{"authorization"}, Issuer: "i", Audience: "a", Keys: []config.TokenKey{{ID: "1", File: file}}},
		Requests: []config.RequestMeaning{{Host: "h", Path: "/p", Method: "POST", Operation: "read", Data: "d"}},
		TLS:      []config.TLSHost{{Host: "h", Port: 8443, CA: file}},
	}
	s, err := newSettings(c, flow.Context{Container: "c1", Data: "internal"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields() // what the shim says the agent knows
	var read document.Document
	if err := d.Decode(&read); err != nil {
		t.Fatal(err)
	}
	got, err := intercept.SettingsOf(&read)
	if err != nil {
		t.Fatal(err)
	}
	mapping := intercept.Mapping{Host: "h", Path: "/p", Method: "POST", Operation: "read", Data: "d"}
	if got.Base.Container != "c1" || got.Data != "internal" || got.UserHeaders[0] != "x-user" || got.DataHeaders[0] != "x-data" || got.Limits.Connections != 7 || got.ServerFirst[0] != 2525 ||
		got.Tokens == nil || got.TokenHeaders[0] != "authorization" || got.Mappings[0] != mapping || got.Originate[0].Port != 8443 || read.Tokens.Audience != "a" || read.DecideWithin != time.Second {
		t.Errorf("%+v", got)
	}

	c.Tokens.Keys[0].File, c.TLS[0].CA = file+".gone", file+".gone"
	s, err = newSettings(c, flow.Context{})
	if err == nil || strings.Count(err.Error(), "cert.pem.gone") != 2 || s.Tokens != nil || s.Originate != nil || len(s.Mappings) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}
