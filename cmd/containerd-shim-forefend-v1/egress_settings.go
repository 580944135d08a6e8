package main

import (
	"errors"
	"fmt"
	"os"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/shim"
)

// systemRoots are where distributions have the certificates that servers are checked by.
var systemRoots = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"}

// maxPEM bounds a file of keys or certificates: all of it travels to an agent, in a message of a mebibyte.
const maxPEM = 384 << 10

// newSettings are the site's for one container's interceptor. Keys and certificates are read now: the agent can read no file. The error
// names what cannot be used; the settings are good without it.
func newSettings(c config.Interception, base flow.Context) (document.Document, error) {
	s := document.Document{Base: base, Data: base.Data, UserHeaders: c.UserHeaders, DataHeaders: c.DataHeaders, Limits: &document.Limits{Connections: c.Connections},
		DecideWithin: c.DecideWithin}
	s.Names = document.Names{Resolver: c.Names.Resolver, Resolvers: c.Names.Resolvers, Services: c.Names.Services, ECH: c.Names.ECH, Queries: c.Names.Queries}
	for _, p := range c.ServerFirst {
		s.ServerFirst = append(s.ServerFirst, uint16(p))
	}
	for _, r := range c.Requests {
		s.Mappings = append(s.Mappings, document.Mapping{Host: r.Host, Path: r.Path, Method: r.Method, Operation: r.Operation, Data: r.Data})
	}
	var errs []error
	tokens := &document.Tokens{Headers: c.Tokens.Headers, Issuer: c.Tokens.Issuer, Audience: c.Tokens.Audience}
	for _, k := range c.Tokens.Keys {
		text, err := readPEM(k.File)
		if err != nil {
			errs = append(errs, fmt.Errorf("key of tokens: %w", err))
			continue
		}
		tokens.Keys = append(tokens.Keys, document.TokenKey{ID: k.ID, PEM: text})
	}
	if len(tokens.Keys) > 0 {
		s.Tokens = tokens
	}
	for _, h := range c.TLS {
		host := document.TLSHost{Host: h.Host, Port: uint16(h.Port)}
		var err error
		if h.CA != "" {
			host.Roots, err = readPEM(h.CA)
		} else if s.Roots == "" {
			s.Roots, err = readFirst(systemRoots)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("TLS to %s: %w", h.Host, err))
			continue
		}
		s.Originate = append(s.Originate, host)
	}
	return s, errors.Join(errs...)
}

func readPEM(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("%s has %d bytes, the most is %d", path, len(b), maxPEM)
	}
	return string(b), err
}

// readFirst reads the first of the files that is there.
func readFirst(paths []string) (string, error) {
	for _, p := range paths {
		if text, err := readPEM(p); !errors.Is(err, os.ErrNotExist) {
			return text, err
		}
	}
	return "", fmt.Errorf("no certificates of the system at %q: name a file with ca", paths)
}

// contacts are what an interceptor holds a container to.
func contacts(r shim.GateRules) document.Contacts {
	named := func(list []string) (out []document.Name) {
		for _, s := range list {
			if host, port, ok := policy.ParseEgressName(s); ok {
				out = append(out, document.Name{Host: host, Port: port})
			}
		}
		return out
	}
	return document.Contacts{
		Off: r.Off, Closed: r.Closed, Allow: r.Allow, Block: r.Block, AllowNames: named(r.AllowNames), BlockNames: named(r.BlockNames),
	}
}
