package intercept

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/bearer"
)

// Document is Settings and Limits as they travel to the process that intercepts, which can read no file: keys and
// certificates are in it, in PEM.
type Document struct {
	Base        flow.Context `json:"base"`
	Data        string       `json:"data,omitempty"`
	Tokens      *Tokens      `json:"tokens,omitempty"`
	UserHeaders []string     `json:"user_headers,omitempty"`
	DataHeaders []string     `json:"data_headers,omitempty"`
	Mappings    []Mapping    `json:"mappings,omitempty"`
	Originate   []TLSHost    `json:"originate,omitempty"`
	Roots       string       `json:"roots,omitempty"` // certificates that servers' are checked by, where a TLSHost has none
	ServerFirst []uint16     `json:"server_first,omitempty"`
	Limits      *Limits      `json:"limits,omitempty"`
	// DecideWithin is for the Decider of that process: what it does not know by then is denied.
	DecideWithin time.Duration `json:"decide_within,omitempty"`
}

// Tokens say which tokens are valid, and where they stand.
type Tokens struct {
	Headers  []string   `json:"headers"`
	Keys     []TokenKey `json:"keys"`
	Issuer   string     `json:"issuer,omitempty"`
	Audience string     `json:"audience,omitempty"`
}

// TokenKey is a public key that tokens are signed with.
type TokenKey struct {
	ID  string `json:"id,omitempty"`
	PEM string `json:"pem"`
}

// TLSHost is an Origination.
type TLSHost struct {
	Host  string `json:"host"`
	Port  uint16 `json:"port,omitempty"`
	Roots string `json:"roots,omitempty"`
}

// Settings are what the document says.
func (d *Document) Settings() (*Settings, error) {
	s := &Settings{
		Base: d.Base, Data: d.Data, UserHeaders: d.UserHeaders, DataHeaders: d.DataHeaders, Mappings: d.Mappings, ServerFirst: d.ServerFirst, Limits: d.Limits,
	}
	if t := d.Tokens; t != nil {
		c := bearer.Config{Issuer: t.Issuer, Audience: t.Audience}
		for _, k := range t.Keys {
			key, err := bearer.ParseKey(k.ID, []byte(k.PEM))
			if err != nil {
				return nil, fmt.Errorf("key %q of tokens: %w", k.ID, err)
			}
			c.Keys = append(c.Keys, key)
		}
		s.Tokens, s.TokenHeaders = bearer.New(c), t.Headers
	}
	for _, h := range d.Originate {
		text := h.Roots
		if text == "" {
			text = d.Roots
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(text)) {
			return nil, fmt.Errorf("TLS to %s: %w", h.Host, errNoRoots)
		}
		s.Originate = append(s.Originate, Origination{Host: h.Host, Port: h.Port, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	}
	return s, nil
}

var errNoRoots = errors.New("no certificate to check servers by")
