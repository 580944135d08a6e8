package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"forefend.dev/forefend/cmd/forefend/output"
)

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"forefend": forefendUnderTest})
}

// tooWide is the exit code of a command that printed a line for people that is wider than promised.
const tooWide = 99

// forefendUnderTest is main with the tests' clock, and with every line measured.
func forefendUnderTest() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	version = "v0.1.0"
	out, errs := &ruler{w: os.Stdout}, &ruler{w: os.Stderr}
	code := run(ctx, &app{stdout: out, stderr: errs, now: func() time.Time { return clock }}, os.Args[1:])
	forPrograms := len(os.Args) > 1 && (slices.Contains(os.Args, "--json") || os.Args[1] == "completion" || os.Args[1] == "__complete")
	if wide := append(out.wide, errs.wide...); len(wide) > 0 && !forPrograms {
		fmt.Fprintf(os.Stderr, "lines of more than %d columns:\n%s", output.Width, strings.Join(wide, ""))
		code = tooWide
	}
	os.Exit(code)
}

// ruler passes what is written on and keeps lines that are too wide or hold terminal escapes.
type ruler struct {
	w    io.Writer
	line bytes.Buffer
	wide []string
}

func (r *ruler) Write(p []byte) (int, error) {
	for _, b := range p {
		r.line.WriteByte(b)
		if b == '\n' {
			if s := r.line.String(); output.Columns(strings.TrimSuffix(s, "\n")) > output.Width || strings.ContainsAny(s, "\x1b\r\t") {
				r.wide = append(r.wide, s)
			}
			r.line.Reset()
		}
	}
	return r.w.Write(p)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
			// until-followed waits until a follower has been told everything.
			"until-followed": func(ts *testscript.TestScript, _ bool, _ []string) {
				select {
				case <-ts.Value(fakeKey{}).(*fakeDaemon).followed:
				case <-time.After(30 * time.Second):
					ts.Fatalf("nobody followed")
				}
			},
			// no-fake takes the daemon away.
			"no-fake": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(os.WriteFile(ts.MkAbs("config.toml"), []byte("root = \"/tmp/ffcli-none/r\"\nstate = \"/tmp/ffcli-none\"\n"), 0o600))
				ts.Setenv("FOREFEND_CONFIG", ts.MkAbs("config.toml"))
			},
		},
		Setup: func(env *testscript.Env) error {
			fake, config := startFake(env.T().(testing.TB))
			env.Values[fakeKey{}] = fake
			env.Setenv("FOREFEND_CONFIG", config)
			env.Setenv("TZ", "UTC")
			env.Setenv("NO_COLOR", "1")
			return nil
		},
	})
}

type fakeKey struct{}

// status runs a command and checks its exit code: "status 3 forefend ps".
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(interface{ Sys() any }); ok {
		code = exit.Sys().(syscall.WaitStatus).ExitStatus()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

// The ruler itself must notice what it is there for.
func TestRulerNoticesWideLines(t *testing.T) {
	r := &ruler{w: io.Discard}
	fmt.Fprintf(r, "%s\n%s\n\x1b[1mbold\n", strings.Repeat("x", output.Width), strings.Repeat("x", output.Width+1))
	if len(r.wide) != 2 {
		t.Errorf("noticed %d lines, not 2: %q", len(r.wide), r.wide)
	}
}
