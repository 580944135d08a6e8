package setup

import (
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// Near picks the programs that the command is meant to run: itself, and what it and its scripts execute by name. A scan
// also has what libraries could execute (systemd's helpers, PAM's), for system calls that must not be missed; to say
// what a command needs, they are too far away.
func Near(programs []evidence.Program) []evidence.Program {
	near := make(map[string]bool)
	for range 8 { // scripts that run scripts
		before := len(near)
		for _, p := range programs {
			if p.Kind == "library" || p.Kind == "plugin" || near[p.Path] {
				continue
			}
			if p.Via == "" || p.Via == "entrypoint" || near[by(p.Via)] {
				near[p.Path] = true
			}
		}
		if len(near) == before {
			break
		}
	}
	var list []evidence.Program
	for _, p := range programs {
		if near[p.Path] {
			list = append(list, p)
		}
	}
	return list
}

// by is the program in "executed by PATH", "executed by PATH:LINE", "interpreter of PATH" or "argument of PATH".
func by(via string) string {
	for _, words := range []string{"executed by ", "interpreter of ", "argument of "} {
		if rest, ok := strings.CutPrefix(via, words); ok {
			if at := strings.LastIndexByte(rest, ':'); at > 0 && strings.Trim(rest[at+1:], "0123456789") == "" {
				rest = rest[:at]
			}
			return rest
		}
	}
	return ""
}
