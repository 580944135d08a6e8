package sinks

import (
	"regexp"
	"strings"

	"forefend.dev/forefend/predictor/scan/setup"
)

var (
	shell       = regexp.MustCompile(`^(ba|da|a|z|k|mk)?sh$|^busybox$`)
	function    = regexp.MustCompile(`(?:^|[;\s&|])(?:function\s+)?([\w:.@]+)\s*\(\s*\)\s*\{([^{}]{1,200})\}`)
	selfInLoop  = regexp.MustCompile(`while\s+(?:true|:|\[\s*1\s*\]|\(\(\s*1\s*\)\))\s*;?\s*do[^#]{0,80}?["']?\$(?:0|\{0\}|\{?BASH_SOURCE)["'\w\[\]}]*\s*&[^&]`)
	selfTwice   = regexp.MustCompile(`(?:^|[;\s])(?:\./|sh |bash )?["']?\$0["']?\s*(?:\||&)\s*(?:\./|sh |bash )?["']?\$0["']?\s*&`)
	forkLoop    = regexp.MustCompile(`while[\s(]*(?:True|1|true)[\s):{]*(?:os\.fork\(\)|fork\b|Process\.fork|pcntl_fork\(\))|\bfork\s+while\s+(?:1|true|fork)|\bloop\s*(?:do|\{)\s*fork`)
	busyLoop    = regexp.MustCompile(`(?:while\s+(?:true|:|\[\s*1\s*\])|until\s+false)\s*;?\s*do((?:[\s;]+(?::|true))+)[\s;]*done`)
	busyCode    = regexp.MustCompile(`while[\s(]*(?:True|1|true)\s*[:)]\s*(?:pass\b|;\s*$|\{\s*\})`)
	heredoc     = regexp.MustCompile(`<<-?\s*\\?['"]?(\w+)['"]?`)
	pythonAlloc = regexp.MustCompile(`(?:bytearray|bytes)\s*\(\s*([0-9][0-9_*<e+ ()]*)\)|(?:b?["'][^"']{1,4}["']|\[0\])\s*\*\s*\(?\s*([0-9][0-9_*<e+ ]*)`)
)

// script looks at a script's text. Of another language than the shell's only forks, busy loops and allocations are known.
func (f *finder) script(text, interpreter, where string) {
	if forkLoop.MatchString(text) {
		f.add("fork-bomb", "pids", 0.95, where, "forks in an endless loop")
	}
	f.allocations(text, where)
	defer f.minerText(text, where) // after the commands, which say more
	if !shell.MatchString(interpreter) {
		if busyCode.MatchString(text) {
			f.add("endless-loop", "cpu", 0.4, where, "an endless loop that waits for nothing")
		}
		return
	}
	text = withoutHeredocs(text)
	bare := uncommented(text)
	for _, m := range function.FindAllStringSubmatch(bare, 1000) {
		if again := doubled(m[1], m[2]); again {
			f.add("fork-bomb", "pids", 0.95, where, "function "+m[1]+" starts itself twice")
		}
	}
	if selfInLoop.MatchString(bare) || selfTwice.MatchString(bare) {
		f.add("fork-bomb", "pids", 0.9, where, "the script starts itself again and again")
	}
	if busyLoop.MatchString(bare) {
		f.add("endless-loop", "cpu", 0.4, where, "an endless loop that waits for nothing")
	}
	for _, c := range setup.Commands(text) {
		f.command(c, where)
	}
}

// doubled tells whether a function's body calls it twice with a pipe or in the background.
func doubled(name, body string) bool {
	call := regexp.QuoteMeta(name)
	re, err := regexp.Compile(`(?:^|[\s;])` + call + `\s*(?:\||&)\s*` + call + `(?:\s*&|\s*$|\s*;)`)
	return err == nil && len(name) < 64 && re.MatchString(body)
}

// withoutHeredocs drops the text of here-documents: it is data, most often a help text.
func withoutHeredocs(text string) string {
	var b strings.Builder
	end := ""
	for line := range strings.Lines(text) {
		if end != "" {
			if strings.TrimSpace(line) == end {
				end = ""
			}
			continue
		}
		b.WriteString(line)
		if m := heredoc.FindStringSubmatch(line); m != nil && !strings.Contains(line, "<<<") && !strings.Contains(line, "((") {
			end = m[1]
		}
	}
	return b.String()
}

func uncommented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// allocations finds literals in Python and the like that ask for more than anybody has.
func (f *finder) allocations(text, where string) {
	most := float64(f.node.Memory)
	if most == 0 {
		most = 16 << 30
	}
	for _, m := range pythonAlloc.FindAllStringSubmatch(text, 1000) {
		if n, ok := product(m[1] + m[2]); ok && n >= most {
			f.add("allocate-all", "memory", 0.7, where, "allocates more than there is: "+cut([]string{m[0]}))
		}
	}
}
