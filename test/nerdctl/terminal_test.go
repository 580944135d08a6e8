package nerdctl

import "testing"

// typed asks a shell about its terminal. The echo of what is typed does not hold the answers.
const typed = "test -t 0 && test -t 2 && echo is-a-$((1))-terminal; stty size; sleep 1 & echo job-$((7)); exit 5\n"

const ofTerminal = `(?s)is-a-1-terminal.*33 101.*job-7`

// TestTerminal is `-t`: what a person types, and sees.
func TestTerminal(t *testing.T) {
	h := newHost(t)
	for name, steps := range map[string][]step{
		"run": {
			{args: "run -it --rm --name NAME RUNTIME busybox sh", types: typed, code: 5, loose: true, want: ofTerminal},
		},
		"exec": {
			{args: "run -d --name NAME RUNTIME " + forever},
			{args: "exec -it NAME sh", types: typed, code: 1, loose: true, want: ofTerminal}, // nerdctl's own status for any failed exec
			{args: "exec NAME echo alive", want: "^alive$"},
		},
		"in the background": {
			{args: "run -d -t --name NAME RUNTIME busybox sh -c 'test -t 1 && echo is-a-terminal; sleep 1000'"},
			{args: "exec NAME sh -c 'until [ -e /proc/1/fd/1 ]; do sleep 0.1; done; readlink /proc/1/fd/1'", want: "^/dev/pts/0$"},
			{args: "logs NAME", loose: true},
		},
		"interrupt": { // ^C is for the process in front, not for nerdctl
			{args: "run -it --rm --name NAME RUNTIME busybox sh -c 'trap \"echo got-it; exit 9\" INT; echo \"# \"; while :; do sleep 0.1; done'",
				types: "\x03", code: 9, loose: true, want: "got-it"},
		},
	} {
		t.Run(name, func(t *testing.T) { h.same(t, steps...) })
	}
}
