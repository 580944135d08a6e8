package early

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inBundle makes a bundle the working directory.
func inBundle(t *testing.T) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "one")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(bundle)
	return bundle
}

var deleted = []string{"-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/bin/containerd", "-id", "one", "-bundle", "/b", "delete"}

func TestNothingLeft(t *testing.T) {
	bundle := inBundle(t)
	response := []byte{8, 1, 10, 16, 137, '\n', 1}
	socket := filepath.Join(t.TempDir(), "socket")
	if err := NoteRemoved(bundle, socket, response); err != nil {
		t.Fatal(err)
	}
	stdin := strings.NewReader("not read")
	var stdout bytes.Buffer
	if done, rest, err := Run(deleted, stdin, &stdout); !done || err != nil || rest != io.Reader(stdin) || !bytes.Equal(stdout.Bytes(), response) {
		t.Errorf("%t %v %q", done, err, stdout.Bytes())
	}
	entries, err := os.ReadDir(bundle)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
	refused := errors.New("closed")
	if done, _, err := Run(deleted, stdin, failing{refused}); !done || !errors.Is(err, refused) {
		t.Errorf("nobody reads: %t %v", done, err)
	}
	if err := NoteRemoved(bundle, "", response); err != nil {
		t.Fatal(err)
	}
	if got, ok := Removed(bundle); !ok || !bytes.Equal(got, response) {
		t.Errorf("without a socket: %q %t", got, ok)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Whatever is not sure is left to upstream.
func TestSomethingMayBeLeft(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	written := func(body string) func(string) error {
		return func(bundle string) error {
			return os.WriteFile(filepath.Join(bundle, removedFile), []byte(body), 0o600)
		}
	}
	for name, test := range map[string]struct {
		args []string
		make func(bundle string) error
	}{
		"no note":            {deleted, func(string) error { return nil }},
		"the shim's socket":  {deleted, func(bundle string) error { return NoteRemoved(bundle, socket, nil) }},
		"an unreadable path": {deleted, func(bundle string) error { return NoteRemoved(bundle, socket+"/x", nil) }},
		"empty":              {deleted, written("")},
		"cut short":          {deleted, written("1\n/no/socket")},
		"a later version":    {deleted, written("2\n\nx")},
		"no end":             {deleted, written("1\n\n" + strings.Repeat("x", maxRemoved))},
		"a directory":        {deleted, func(bundle string) error { return os.Mkdir(filepath.Join(bundle, removedFile), 0o700) }},
		"another container":  {[]string{"-namespace", "ns", "-id", "ne", "delete"}, written("1\n\nx")},
		"no container":       {[]string{"-namespace", "ns", "delete"}, written("1\n\nx")},
		"no namespace":       {[]string{"-id", "one", "delete"}, written("1\n\nx")},
		"debug":              {[]string{"-namespace", "ns", "-id", "one", "-debug", "delete"}, written("1\n\nx")},
		"odd flags":          {[]string{"-odd", "delete"}, written("1\n\nx")},
		"another action":     {[]string{"-namespace", "ns", "-id", "one", "undo"}, written("1\n\nx")},
		"the shim itself":    {[]string{"-namespace", "ns", "-id", "one"}, written("1\n\nx")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.make(inBundle(t)); err != nil {
				t.Fatal(err)
			}
			var stdout bytes.Buffer
			if done, _, err := Run(test.args, strings.NewReader(""), &stdout); done || err != nil || stdout.Len() > 0 {
				t.Errorf("%t %v %q", done, err, stdout.Bytes())
			}
		})
	}
	t.Run("no bundle", func(t *testing.T) {
		bundle := inBundle(t)
		if err := os.Remove(bundle); err != nil {
			t.Fatal(err)
		}
		if done, _, err := Run(deleted, strings.NewReader(""), io.Discard); done || err != nil {
			t.Errorf("%t %v", done, err)
		}
		if err := NoteRemoved(bundle, "", nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("noted in a bundle that is gone: %v", err)
		}
	})
}

// FuzzRemoved reads any note: it never fails otherwise than by leaving the container to upstream.
func FuzzRemoved(f *testing.F) {
	f.Add([]byte("1\n/no/socket\nresponse"))
	f.Add([]byte("1\n\n"))
	f.Add([]byte("2\nx"))
	bundle := f.TempDir()
	f.Fuzz(func(t *testing.T, note []byte) {
		if err := os.WriteFile(filepath.Join(bundle, removedFile), note, 0o600); err != nil {
			t.Fatal(err)
		}
		if response, ok := Removed(bundle); ok && (!bytes.HasPrefix(note, []byte("1\n")) || !bytes.HasSuffix(note, append([]byte("\n"), response...))) {
			t.Errorf("%q answers %q", note, response)
		}
	})
}
