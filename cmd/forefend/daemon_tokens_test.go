package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// issuer signs tokens; write puts its public key where the site has it.
type issuer struct{ ed25519.PrivateKey }

func newIssuer(t *testing.T) issuer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{private}
}

func (i issuer) write(t *testing.T, file string) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (i issuer) token(t *testing.T, user string) flow.Credential {
	t.Helper()
	s, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": user, "exp": time.Now().Add(time.Hour).Unix()}).SignedString(i.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return flow.Credential(s)
}

// TestEgressToken: that a token proves the user is the daemon's own finding, whatever an agent says that was taken over.
func TestEgressToken(t *testing.T) {
	dir := t.TempDir()
	rules := "[[rule]]\nname = \"admin\"\nwhen = 'user == \"admin\" && user_proof == \"token\"'\ntunnel = { encryption = \"none\" }\n"
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	e, c := servedEgress(t, dir)
	file := filepath.Join(t.TempDir(), "tokens.pem")
	ours, theirs := newIssuer(t), newIssuer(t)
	ours.write(t, file)
	e.tokens = &tokens{cfg: config.Tokens{Keys: []config.TokenKey{{File: file}}}}
	decide := func(user string, token flow.Credential, proves bool) flow.Decision {
		t.Helper()
		d, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Token: token, Proves: proves, Context: flow.Context{
			Namespace: "default", Container: "c1", User: user, UserProof: flow.Verified,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, r := range map[string]struct {
		user   string
		token  flow.Credential
		denied bool
	}{
		"its token":               {"admin", ours.token(t, "admin"), false},
		"another's token":         {"admin", ours.token(t, "guest"), true},
		"no token":                {"admin", "", true},
		"another issuer's":        {"admin", theirs.token(t, "admin"), true},
		"no token at all, really": {"admin", "a.b.c", true},
	} {
		d := decide(r.user, r.token, true)
		if d.Profile.Deny != r.denied {
			t.Errorf("%s: %+v", name, d)
		}
		if unproved := strings.Contains(d.Reason, "finds the token"); unproved != (r.denied && name != "another's token") || unproved && d.Valid == 0 {
			t.Errorf("%s: %s, for %s", name, d.Reason, d.Valid)
		}
	}
	if d := decide("admin", "", false); d.Profile.Deny {
		t.Errorf("a shim of an older release passes no tokens on: %+v", d)
	}
	theirs.write(t, file)
	e.tokens.looked = time.Time{} // a second later
	if d := decide("admin", theirs.token(t, "admin"), true); d.Profile.Deny {
		t.Errorf("by the new key: %+v", d)
	}
	if d := decide("admin", ours.token(t, "admin"), true); !d.Profile.Deny {
		t.Errorf("by the key that is gone: %+v", d)
	}
}

// A token is in no context that is written down or printed.
func TestTokenIsSecret(t *testing.T) {
	c := flow.Context{User: "admin", Credential: "a.secret.token"}
	body, err := json.Marshal(c)
	if text := fmt.Sprintf("%s %v %+v %#v %q", body, c, c, c, c.Credential); err != nil || strings.Contains(text, "secret") {
		t.Errorf("%s, %v", text, err)
	}
}
