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
