package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// narrator tells the story and remembers which claims did not hold.
type narrator struct {
	out    io.Writer
	steps  int
	broken []error
}

func (n *narrator) say(format string, args ...any) {
	fmt.Fprintf(n.out, format+"\n", args...)
}

// show prints the output of a command, indented.
func (n *narrator) show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		fmt.Fprint(n.out, line)
	}
}

func (n *narrator) step(format string, args ...any) {
	n.steps++
	n.say("\n=== %d. %s", n.steps, fmt.Sprintf(format, args...))
}

// claim says what was shown, or what was not. A claim that does not hold fails the demonstration in the end.
func (n *narrator) claim(holds bool, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if holds {
		n.say("  ok: %s", what)
		return
	}
	n.say("  NOT SHOWN: %s", what)
	n.broken = append(n.broken, errors.New("not shown: "+what))
}

func (n *narrator) failed() error { return errors.Join(n.broken...) }
