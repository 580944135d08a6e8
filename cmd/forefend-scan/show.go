package main

import (
	"fmt"
	"io"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// show prints a scan for people.
func show(w io.Writer, s evidence.Scan) {
	fmt.Fprintf(w, "command   %s\n", strings.Join(s.Command, " "))
	fmt.Fprintf(w, "program   %s (%s)\n", s.Entry, s.Arch)
	fmt.Fprintf(w, "syscalls  %d: %s\n", len(s.Syscalls), strings.Join(s.Syscalls, " "))
	for _, p := range s.Programs {
		fmt.Fprintf(w, "runs      %s: %s, %s\n", p.Path, p.Kind, p.Via)
	}
	for _, u := range s.Unknown {
		fmt.Fprintf(w, "unknown   %s: %s\n", u.Where, u.Why)
	}
	if m := s.Memory; m.Runtime != "" {
		fmt.Fprintf(w, "memory    %s: typically %.0f MiB, at most %.0f MiB: %s\n", m.Runtime, m.Typical/(1<<20), m.High/(1<<20), m.Basis)
	}
	for _, p := range s.Ports {
		fmt.Fprintf(w, "listens   %d/%s: %s\n", p.Number, p.Protocol, p.Why)
	}
	for _, c := range s.Capabilities {
		fmt.Fprintf(w, "needs     %s: %s\n", c.Name, c.Why)
	}
	for _, k := range s.Sinks {
		fmt.Fprintf(w, "sink      %s of %s (%.0f %%) in %s: %s\n", k.Kind, k.Resource, 100*k.Severity, k.Where, k.Why)
	}
	fmt.Fprintf(w, "packages  %d, with %d known vulnerabilities\n", s.Packages, len(s.Vulnerabilities))
	for _, v := range s.Vulnerabilities {
		how := "not reached"
		if v.Reachable {
			how = "reached by " + v.Via
		}
		if v.Fixed != "" {
			how += ", fixed in " + v.Fixed
		}
		fmt.Fprintf(w, "flaw      %s in %s %s: %.1f, %s\n", v.ID, v.Package, v.Version, v.Severity, how)
	}
	for _, e := range s.Errors {
		fmt.Fprintf(w, "failed    %s\n", e)
	}
}
