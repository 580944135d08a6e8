package bearer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func sign(t testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) []byte {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(s)
}

func public(t testing.TB, id string, key crypto.PublicKey) Key {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(id, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestUser(t *testing.T) {
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	v := New(Config{Keys: []Key{public(t, "", edPublic), public(t, "ec", &ec.PublicKey), public(t, "rs", &rs.PublicKey)}, Issuer: "me", Audience: "us"})
	now := time.Now()
	claims := func(change ...any) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "admin", "iss": "me", "aud": []string{"them", "us"}, "exp": now.Add(time.Hour).Unix()}
		for i := 0; i < len(change); i += 2 {
			if c[change[i].(string)] = change[i+1]; change[i+1] == nil {
				delete(c, change[i].(string))
			}
		}
		return c
	}
	keyDER, _ := x509.MarshalPKIXPublicKey(&rs.PublicKey)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: keyDER})
	good := sign(t, jwt.SigningMethodEdDSA, ed, "any", claims())
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)/2] ^= 1
	for name, c := range map[string]struct {
		token []byte
		user  string
	}{
		"Ed25519":            {good, "admin"},
		"ECDSA":              {sign(t, jwt.SigningMethodES256, ec, "ec", claims("exp", nil)), "admin"},
		"RSA":                {sign(t, jwt.SigningMethodPS256, rs, "rs", claims()), "admin"},
		"another kid":        {sign(t, jwt.SigningMethodES256, ec, "rs", claims()), ""},
		"another key":        {sign(t, jwt.SigningMethodEdDSA, other, "", claims()), ""},
		"none":               {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", claims()), ""},
		"public key as HMAC": {sign(t, jwt.SigningMethodHS256, keyPEM, "rs", claims()), ""},
		"expired":            {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("exp", now.Add(-time.Minute).Unix())), ""},
		"not yet":            {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("nbf", now.Add(time.Hour).Unix())), ""},
		"issuer":             {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("iss", "you")), ""},
		"audience":           {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("aud", "them")), ""},
		"nobody":             {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("sub", nil)), ""},
		"strange user":       {sign(t, jwt.SigningMethodEdDSA, ed, "", claims("sub", "a\nb")), ""},
		"tampered":           {tampered, ""},
		"huge":               {[]byte(strings.Repeat("a", MaxSize) + ".b.c"), ""},
		"no token":           {[]byte("abc"), ""},
		"empty":              {nil, ""},
	} {
		for range 2 { // the second time from memory
			if user, ok := v.User(now, c.token); user != c.user || ok != (c.user != "") {
				t.Errorf("%s: %q, %v", name, user, ok)
			}
		}
	}
	if user, _ := v.User(now.Add(2*time.Hour), good); user == "admin" && v.known != nil {
		// the clock of the library says that it is valid; what was remembered must not have been used
		for _, k := range v.known {
			if k.user == "admin" && k.until.After(now.Add(3*time.Hour)) {
				t.Error("a token is remembered beyond its end")
			}
		}
	}
}

// TestKept: what is remembered is bounded, and a token's end ends it there too.
func TestKept(t *testing.T) {
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	v := New(Config{Keys: []Key{public(t, "", edPublic)}})
	now := time.Now()
	short := sign(t, jwt.SigningMethodEdDSA, ed, "", jwt.MapClaims{"sub": "a", "exp": now.Add(time.Minute).Unix()})
	v.User(now, short)
	for _, found := range v.known {
		if found.until.After(now.Add(time.Minute)) {
			t.Errorf("remembered until %s", found.until)
		}
	}
	for i := range maxKept + 100 {
		v.User(now, fmt.Appendf(nil, "a.b.%d", i))
	}
	if len(v.known) > maxKept {
		t.Errorf("%d remembered", len(v.known))
	}
	if _, ok := New(Config{}).User(now, short); ok {
		t.Error("valid without a key")
	}
}

func TestParseKey(t *testing.T) {
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	if weak != nil {
		der, _ := x509.MarshalPKIXPublicKey(&weak.PublicKey)
		if _, err := ParseKey("", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err == nil {
			t.Error("RSA of 1024 bits is taken")
		}
	}
	for _, text := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ParseKey("", []byte(text)); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
}

func BenchmarkUser(b *testing.B) {
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	v := New(Config{Keys: []Key{public(b, "", edPublic)}})
	now := time.Now()
	token := sign(b, jwt.SigningMethodEdDSA, ed, "", jwt.MapClaims{"sub": "a", "exp": now.Add(time.Hour).Unix()})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := v.User(now, token); !ok {
			b.Fatal()
		}
	}
}
