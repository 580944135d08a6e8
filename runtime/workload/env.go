package workload

import (
	"slices"
	"strings"
)

// Bounds of Facts.Env.
const (
	maxEnv      = 16
	maxVariable = 1024
)

// decisive are the variables, PATH apart, that decide which code a program loads or how much memory its runtime takes.
// None of them is a place for secrets, see options.
var decisive = map[string]bool{
	"LD_LIBRARY_PATH": true, "LD_PRELOAD": true, "LD_AUDIT": true,
	"PYTHONPATH": true, "PYTHONHOME": true, "PYTHONMALLOC": true, "NODE_PATH": true, "NODE_OPTIONS": true, "PERL5LIB": true, "PERL5OPT": true,
	"RUBYLIB": true, "RUBYOPT": true, "JAVA_HOME": true, "JAVA_TOOL_OPTIONS": true, "JDK_JAVA_OPTIONS": true, "JAVA_OPTS": true,
	"GOMEMLIMIT": true, "GOGC": true, "GOMAXPROCS": true, "MALLOC_ARENA_MAX": true, "BASH_ENV": true, "ENV": true,
	"PHP_INI_SCAN_DIR": true, "PGDATA": true,
}

// options hold many words of which those that define properties (-D) may hold anything, passwords too.
var options = map[string]bool{"NODE_OPTIONS": true, "JAVA_TOOL_OPTIONS": true, "JDK_JAVA_OPTIONS": true, "JAVA_OPTS": true}

// DecisiveEnv picks from a process's environment the variables that Facts.Env holds, in their order.
func DecisiveEnv(env []string) (out []string) {
	for _, pair := range env {
		name, value, ok := strings.Cut(pair, "=")
		if options[name] {
			words := slices.DeleteFunc(strings.Fields(value), func(w string) bool { return strings.HasPrefix(w, "-D") })
			pair = name + "=" + strings.Join(words, " ")
		}
		if ok && decisive[name] && len(pair) <= maxVariable && len(out) < maxEnv {
			out = append(out, pair)
		}
	}
	return out
}
