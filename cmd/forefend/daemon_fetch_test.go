package main

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A daemon downloads the feed that its configuration names, and what is in it is a threat from then on.
func TestDaemonFetches(t *testing.T) {
	s := newSite(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "192.0.2.0/24") }))
	defer server.Close()
	ca := filepath.Join(filepath.Dir(s.Path), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.says(t, fmt.Sprintf("[threats]\nfeeds = []\n[[threats.fetch]]\nurl = %q\nfile = \"bad.netset\"\n", server.URL+"/list"))
	daemon := s.command("daemon")
	daemon.Env = append(daemon.Env, "SSL_CERT_FILE="+ca) // one that detaches has an environment of its own
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = daemon.Process.Kill(), daemon.Wait() }()
	eventually(t, "the feed", func() bool {
		out, err := s.command("threat", "check", "192.0.2.7").CombinedOutput()
		return strings.Contains(string(out), "bad.netset") && err == nil
	})
}
