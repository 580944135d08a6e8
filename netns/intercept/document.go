package intercept

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"forefend.dev/forefend/netns/intercept/bearer"
	"forefend.dev/forefend/netns/intercept/document"
)

// SettingsOf are what a document says. The error names the key or host whose PEM cannot be read.
func SettingsOf(d *document.Document) (*Settings, error) {
	s := &Settings{
		Base: d.Base, Data: d.Data, UserHeaders: d.UserHeaders, DataHeaders: d.DataHeaders, Mappings: d.Mappings, Names: d.Names, Contacts: d.Contacts, ServerFirst: d.ServerFirst, Limits: d.Limits,
		Containers: d.Containers,
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
