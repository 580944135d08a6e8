// Package bearer verifies the bearer tokens (JWT, RFC 7519) that say which user a request is made for.
package bearer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds.
const (
	MaxSize = 8 << 10 // bytes of a token; larger ones are not looked at
	maxKept = 4096    // tokens whose verification is remembered
	// keepBad is how long a token that failed is remembered: one that is not valid yet may become so.
	keepBad = 10 * time.Second
	// forever is for tokens that name no end.
	forever = 10 * time.Minute
)

// Key is one public key that tokens may be signed with.
type Key struct {
	ID     string // the token's kid; empty: for tokens of any kid
	Public crypto.PublicKey
}

// ParseKey reads a public key in PEM: "PUBLIC KEY" or "CERTIFICATE", of RSA (2048 bits or more), ECDSA or Ed25519.
func ParseKey(id string, text []byte) (Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return Key{}, errors.New("not PEM: a block that begins with -----BEGIN PUBLIC KEY-----")
	}
	var public crypto.PublicKey
	switch block.Type {
	case "PUBLIC KEY":
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return Key{}, err
		}
		public = k
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Key{}, err
		}
		public = c.PublicKey
	default:
		return Key{}, fmt.Errorf("PEM block %q is not a public key", block.Type)
	}
	if len(methods(public)) == 0 {
		return Key{}, fmt.Errorf("%T is not a key of RSA (2048 bits or more), ECDSA or Ed25519", public)
	}
	return Key{ID: id, Public: public}, nil
}

// methods are the algorithms a key may be used with: the key says so, never the token.
func methods(public crypto.PublicKey) []string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}
		case 384:
			return []string{"ES384"}
		case 521:
			return []string{"ES512"}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// Config is what a token has to satisfy.
type Config struct {
	Keys     []Key
	Issuer   string // the token's iss; empty: any
	Audience string // one of the token's aud; empty: any
	Leeway   time.Duration
}

// Verifier verifies tokens and remembers what it found by their hash, until they expire. All methods may be called from
// any goroutine.
type Verifier struct {
	cfg     Config
	parsers []*jwt.Parser // one for each key

	mu    sync.Mutex
	known map[[sha256.Size]byte]verdict // guarded by mu
}

type verdict struct {
	user  string // empty: it failed
	until time.Time
}

// New makes a verifier. Without keys no token is valid.
func New(cfg Config) *Verifier {
	v := &Verifier{cfg: cfg, known: make(map[[sha256.Size]byte]verdict)}
	for _, k := range cfg.Keys {
		options := []jwt.ParserOption{jwt.WithValidMethods(methods(k.Public)), jwt.WithLeeway(cfg.Leeway)}
		if cfg.Issuer != "" {
			options = append(options, jwt.WithIssuer(cfg.Issuer))
		}
		if cfg.Audience != "" {
			options = append(options, jwt.WithAudience(cfg.Audience))
		}
		v.parsers = append(v.parsers, jwt.NewParser(options...))
	}
	return v
}

// User returns the subject of a token that is valid now. ok is false for any other.
func (v *Verifier) User(now time.Time, token []byte) (user string, ok bool) {
	if len(token) > MaxSize || len(v.parsers) == 0 || bytes.Count(token, []byte{'.'}) != 2 {
		return "", false
	}
	sum := sha256.Sum256(token)
	v.mu.Lock()
	found, known := v.known[sum]
	v.mu.Unlock()
	if !known || !now.Before(found.until) {
		found = v.verify(now, string(token))
		v.keep(now, sum, found)
	}
	return found.user, found.user != ""
}

func (v *Verifier) verify(now time.Time, token string) verdict {
	failed := verdict{until: now.Add(keepBad)}
	for i, p := range v.parsers {
		key := v.cfg.Keys[i]
		var claims jwt.RegisteredClaims
		_, err := p.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
			if kid, _ := t.Header["kid"].(string); key.ID != "" && kid != key.ID {
				return nil, errors.New("another key's")
			}
			return key.Public, nil
		})
		if err != nil || !isUser(claims.Subject) {
			continue
		}
		until := now.Add(forever)
		if claims.ExpiresAt != nil && claims.ExpiresAt.Add(v.cfg.Leeway).Before(until) {
			until = claims.ExpiresAt.Add(v.cfg.Leeway)
		}
		return verdict{claims.Subject, until}
	}
	return failed
}

// isUser keeps subjects to what rules and people can read.
func isUser(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return false
		}
	}
	return true
}

// keep remembers a verdict. When there are too many, those that are over go, and if none are, any one.
func (v *Verifier) keep(now time.Time, sum [sha256.Size]byte, found verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxKept {
		for k, old := range v.known {
			if !now.Before(old.until) {
				delete(v.known, k)
			}
		}
		for k := range v.known {
			if len(v.known) < maxKept {
				break
			}
			delete(v.known, k)
		}
	}
	v.known[sum] = found
}
